// Inverted bottlenecks of a float graph. As mammofm_lite/tiling_f32.py.

#include <openvino/op/transpose.hpp>
#include <optional>
#include <utility>

#include "../tiled_mbconv_f32_op.hpp"
#include "graph_match.hpp"
#include "tiling.hpp"

namespace mammofm {
namespace {

using namespace match;

/// A convolution with constant weights, and the sum that follows it.
struct Convolution {
    Node node;
    std::shared_ptr<ov::op::v0::Constant> weights;  // float32 or half precision
    Floats biases;                                  // [out]
    Node result;                                    // the sum

    const ov::Shape& shape() const { return weights->get_shape(); }
};

Convolution convolution(const Node& node) {
    const auto weights = constant(node, 1);
    const ov::element::Type type = weights->get_element_type();
    need(type == ov::element::f32 || type == ov::element::f16);
    const Node total = sum_after(node);
    stride(node);
    padding(node);
    const std::size_t channels = node->get_output_shape(0)[1];
    return {node, weights, per_channel(constant(total, 1)->cast_vector<float>(), channels), total};
}

// -------------------- a block

/// What comes before the depthwise convolution; `kind` as the operation's attribute.
struct Expansion {
    std::int64_t kind = 0;
    std::optional<Convolution> convolution;
    Padding pads = {0, 0};
    Node entry;  // whose first output the block reads
};

struct Block {
    Expansion expansion;
    Convolution depthwise;
    Dense reduce, excite;
    Convolution project;
    Node exit;  // the sum that the block ends with

    bool shortcut() const { return exit != project.result; }
    /// The operations of this block that read its entry.
    std::set<Node> readers() const {
        std::set<Node> found = {expansion.convolution ? expansion.convolution->node
                                                      : depthwise.node};
        if (shortcut())
            found.insert(exit);
        return found;
    }
};

/// Before `depthwise`: the convolution of a swish that nothing else reads, if it is one.
std::optional<Convolution> expanding(const Node& depthwise) {
    try {
        const Node source = swish(depthwise->get_input_node_shared_ptr(0));
        const Node total = before(source, "Add");
        Convolution found = convolution(before(total, "Convolution"));
        need(after(total, "Swish") == source);
        need(after(source, "GroupConvolution") == depthwise);
        return found;
    } catch (const OtherForm&) {
        return std::nullopt;
    }
}

/// Before `depthwise`: swish of a convolution of the entry, or the entry itself.
Expansion expansion_of(const Node& depthwise) {
    const Expansion plain{0, std::nullopt, {0, 0}, depthwise->get_input_node_shared_ptr(0)};
    const std::optional<Convolution> found = expanding(depthwise);
    if (!found)
        return plain;
    const ov::Shape& shape = found->shape();
    need(shape.size() == 4);
    const Node entry = found->node->get_input_node_shared_ptr(0);
    if (shape[2] == 1 && shape[3] == 1 && stride(found->node) == 1 &&
        padding(found->node) == Padding{0, 0})
        return shape[1] % 4 == 0 ? Expansion{1, found, {0, 0}, entry} : plain;
    if (shape[1] == 1 && shape[2] == 3 && shape[3] == 3 && stride(found->node) == 2)
        return {3, found, padding(found->node), entry};
    return plain;
}

struct Squeeze {
    Dense reduce, excite;
    Node product;
};

Squeeze squeeze_of(const Node& hidden) {
    const Pooled found = pooled(hidden);
    Node mean = found.pooling;
    if (!is_of(mean, "ReduceMean"))
        mean = after(row_means(mean, hidden->get_output_shape(0)[3]), "ReduceMean");
    Dense reduce = dense(after(pooled_axes(mean), "Convolution"));
    Dense excite = dense(after(swish(after(reduce.result, "Swish")), "Convolution"));
    need(after(after(excite.result, "Sigmoid"), "Multiply") == found.product);
    return {std::move(reduce), std::move(excite), found.product};
}

/// The sum with the entry, if nothing else reads the projection; or the projection itself.
Node exit_of(const Convolution& project, const Node& entry) {
    const std::vector<Node> readers = consumers(project.result);
    if (readers.size() == 1 && is_of(readers[0], "Add")) {
        const std::set<Node> sources = {readers[0]->get_input_node_shared_ptr(0),
                                        readers[0]->get_input_node_shared_ptr(1)};
        if (sources == std::set<Node>({entry, project.result}) &&
            entry->get_output_shape(0) == project.result->get_output_shape(0))
            return readers[0];
    }
    return project.result;
}

void check_shapes(const Block& block) {
    const ov::Shape &depthwise = block.depthwise.shape(), &project = block.project.shape();
    need(depthwise.size() == 5 && depthwise[1] == 1 && depthwise[2] == 1);
    need(depthwise[3] == depthwise[4] && (depthwise[4] == 3 || depthwise[4] == 5));
    need(block.expansion.kind != 0 || depthwise[0] % 8 == 0);
    need(project.size() == 4 && project[0] % 8 == 0);
    need(project[1] == depthwise[0] && project[2] == 1 && project[3] == 1);
    need(stride(block.project.node) == 1 && padding(block.project.node) == Padding{0, 0});
    const Node& entry = block.expansion.entry;
    need(entry->get_output_size() == 1 && entry->get_output_shape(0)[0] == 1);
}

Block block_of(const Node& node) {
    Convolution depthwise = convolution(node);
    Expansion expansion = expansion_of(node);
    Squeeze squeeze = squeeze_of(swish(after(depthwise.result, "Swish")));
    Convolution project = convolution(after(squeeze.product, "Convolution"));
    const Node exit = exit_of(project, expansion.entry);
    Block block{std::move(expansion),      std::move(depthwise), std::move(squeeze.reduce),
                std::move(squeeze.excite), std::move(project),   exit};
    check_shapes(block);
    return block;
}

// -------------------- as an operation

/// What the operation reads where no other block comes before it.
ov::Output<ov::Node> first_input(const Block& block) {
    const ov::Output<ov::Node> x = block.expansion.entry->output(0);
    if (block.expansion.kind == 3)  // one plane, with its channel first or last
        return x;
    const auto order = ov::op::v0::Constant::create(ov::element::i64, {4}, {0, 2, 3, 1});
    return std::make_shared<ov::op::v1::Transpose>(x, order)->output(0);
}

ov::OutputVector inputs_of(const Block& block, const ov::Output<ov::Node>& x) {
    const auto biases = [](const Floats& values) { return f32({values.size()}, values); };
    ov::OutputVector inputs = {x};
    for (const Convolution* one : {&block.depthwise, &block.project}) {
        inputs.push_back(one->weights->output(0));
        inputs.push_back(biases(one->biases));
    }
    for (const Dense* gate : {&block.reduce, &block.excite}) {
        inputs.push_back(f32_weights(*gate));
        inputs.push_back(biases(gate->biases));
    }
    if (const auto& expansion = block.expansion.convolution) {
        inputs.push_back(expansion->weights->output(0));
        inputs.push_back(biases(expansion->biases));
    }
    return inputs;
}

TiledMBConvF32Attributes attributes_of(const Block& block, bool emit) {
    TiledMBConvF32Attributes attributes;
    attributes.form.expand = block.expansion.kind;
    attributes.form.kernel = static_cast<std::int64_t>(block.depthwise.shape()[3]);
    attributes.form.stride = stride(block.depthwise.node);
    const Padding outer = block.expansion.pads, own = padding(block.depthwise.node);
    attributes.form.pads = {outer[0], outer[1], own[0], own[1]};
    attributes.form.shortcut = block.shortcut();
    attributes.emit_planes = emit;
    return attributes;
}

TiledBlock tiled(const Block& block) {
    TiledBlock found;
    found.entry = block.expansion.entry;
    found.exit = found.raw = block.exit;
    found.readers = block.readers();
    found.first_input = [block] { return first_input(block); };
    found.make = [block](const ov::Output<ov::Node>& x, bool emit) {
        return std::make_shared<TiledMBConvF32>(inputs_of(block, x), attributes_of(block, emit));
    };
    return found;
}

}  // namespace

std::vector<TiledBlock> f32_blocks(const ov::Model& model) {
    return blocks_of(model, [](const Node& op) { return tiled(block_of(op)); });
}

}  // namespace mammofm
