// Inverted bottlenecks of a quantized graph. As mammofm_lite/tiling_int8.py.

#include <cmath>
#include <openvino/op/fake_quantize.hpp>
#include <optional>
#include <utility>

#include "../tiled_mbconv_op.hpp"
#include "graph_match.hpp"
#include "tiling.hpp"

namespace mammofm {
namespace {

using namespace match;

using Range = std::array<float, 2>;

constexpr Range kNotRounded = {0.0f, 0.0f};
constexpr std::size_t kLevels = 256;

struct Ranges {
    Floats low, high;
};

/// Lows and highs of a FakeQuantize that rounds to bytes and back.
Ranges ranges_of(const Node& quantizer) {
    std::array<Floats, 4> edges;
    for (std::size_t i = 0; i < edges.size(); ++i)
        edges[i] = constant(quantizer, i + 1)->cast_vector<float>();
    const auto typed = ov::as_type_ptr<ov::op::v0::FakeQuantize>(quantizer);
    need(typed != nullptr && typed->get_levels() == kLevels);
    need(edges[0] == edges[2] && edges[1] == edges[3]);
    const Floats &low = edges[0], &high = edges[1];
    const auto finite = [](float value) { return std::isfinite(value); };
    need(std::all_of(low.begin(), low.end(), finite));
    need(std::all_of(high.begin(), high.end(), finite));
    // One of a size of one is compared with all of the other.
    const std::size_t count = std::max(low.size(), high.size());
    for (std::size_t i = 0; i < count; ++i)
        need(low[low.size() == 1 ? 0 : i] <= high[high.size() == 1 ? 0 : i]);
    return {low, high};
}

Range one_range(const Node& quantizer) {
    const Ranges found = ranges_of(quantizer);
    need(found.low.size() == 1 && found.high.size() == 1);
    return {found.low[0], found.high[0]};
}

/// A convolution with 8-bit weights, and the sum that follows it.
struct Convolution {
    Node node;
    std::shared_ptr<ov::op::v0::Constant> weights;  // bytes
    Floats steps, biases;                           // [out]
    Node result;                                    // the sum

    std::size_t channels() const { return steps.size(); }
};

Convolution convolution(const Node& node) {
    const Node product = before(node, "Multiply", 1);
    const Node weights = before(before(product, "Convert"), "Constant");
    need(weights->get_output_element_type(0) == ov::element::i8);
    const std::size_t channels = weights->get_output_shape(0)[0];
    const Node total = sum_after(node);
    stride(node);
    padding(node);
    return {node, ov::as_type_ptr<ov::op::v0::Constant>(weights),
            per_channel(constant(product, 1)->cast_vector<float>(), channels),
            per_channel(constant(total, 1)->cast_vector<float>(), channels), total};
}

// -------------------- a block

/// What comes before the depthwise convolution; `kind` as the operation's attribute.
struct Expansion {
    std::int64_t kind = 0;
    std::optional<Convolution> convolution;
    Padding pads = {0, 0};
    Node entry;  // the FakeQuantize of the block's input
};

/// The squeeze-excite path.
struct Squeeze {
    Range row_mean, gate;
    Dense reduce, excite;
    Node product;
};

struct Ending {
    Node inner;  // FakeQuantize of the projection, where there is a shortcut
    Node raw;    // the values that are rounded last
    Node exit;   // the FakeQuantize that rounds them
};

struct Block {
    Expansion expansion;
    Convolution depthwise;
    Node middle;  // FakeQuantize before the depthwise convolution
    Node hidden;  // and after it
    Squeeze squeeze;
    Node gated;
    Convolution project;
    Ending end;

    const Node& entry() const { return expansion.entry; }
    /// The operations of this block that read its entry.
    std::set<Node> readers() const {
        std::set<Node> found = {expansion.convolution ? expansion.convolution->node
                                                      : depthwise.node};
        if (end.inner != nullptr)
            found.insert(end.raw);
        return found;
    }
};

/// Before `middle`: the convolution of a swish that nothing else reads, if it is one.
std::optional<Convolution> expanding(const Node& middle) {
    try {
        const Node source = swish(middle->get_input_node_shared_ptr(0));
        const Node total = before(source, "Add");
        Convolution found = convolution(before(total, "Convolution"));
        need(after(total, "Swish") == source);
        need(after(source, "FakeQuantize") == middle);
        return found;
    } catch (const OtherForm&) {
        return std::nullopt;
    }
}

/// Before `middle`: swish of a quantized convolution of the entry, or the entry itself.
Expansion expansion_of(const Node& middle) {
    const std::optional<Convolution> found = expanding(middle);
    if (!found)
        return {0, std::nullopt, {0, 0}, middle};
    const Node entry = before(found->node, "FakeQuantize");
    const ov::Shape shape = found->weights->get_shape();
    need(shape.size() == 4);
    if (shape[2] == 1 && shape[3] == 1 && stride(found->node) == 1 &&
        padding(found->node) == Padding{0, 0}) {
        need(shape[1] % 4 == 0);
        return {1, found, {0, 0}, entry};
    }
    if (shape[1] == 1 && shape[2] == 3 && shape[3] == 3 && stride(found->node) == 2)
        return {3, found, padding(found->node), entry};
    return {0, std::nullopt, {0, 0}, middle};
}

struct Means {
    Range row_mean;  // range of the rounded means of rows, if they are rounded
    Node mean, product;
};

Means means(const Node& hidden) {
    const Pooled found = pooled(hidden);
    if (is_of(found.pooling, "ReduceMean"))
        return {kNotRounded, pooled_axes(found.pooling), found.product};
    const std::size_t width = hidden->get_output_shape(0)[3];
    const Node rounding = after(row_means(found.pooling, width), "FakeQuantize");
    const Range range = one_range(rounding);
    need(range[0] < range[1]);
    return {range, pooled_axes(after(rounding, "ReduceMean")), found.product};
}

Squeeze squeeze_of(const Node& hidden) {
    const Means found = means(hidden);
    Dense reduce = dense(after(found.mean, "Convolution"));
    Dense excite = dense(after(swish(after(reduce.result, "Swish")), "Convolution"));
    const Node gate = after(after(excite.result, "Sigmoid"), "FakeQuantize");
    need(after(gate, "Multiply") == found.product);
    return {found.row_mean, one_range(gate), std::move(reduce), std::move(excite), found.product};
}

/// The only FakeQuantize that reads it, whatever else does.
Node rounding(const Node& node) {
    Node found;
    for (const Node& one : consumers(node)) {
        if (!is_of(one, "FakeQuantize"))
            continue;
        need(found == nullptr);
        found = one;
    }
    need(found != nullptr);
    return found;
}

Ending ending(const Convolution& project, const Node& entry) {
    const Node first = rounding(project.result);
    const std::vector<Node> readers = consumers(first);
    if (readers.size() == 1 && is_of(readers[0], "Add")) {
        const Node total = readers[0];
        const std::set<Node> sources = {total->get_input_node_shared_ptr(0),
                                        total->get_input_node_shared_ptr(1)};
        if (sources == std::set<Node>({entry, first})) {
            need(consumers(project.result).size() == 1);
            return {first, total, rounding(total)};
        }
    }
    return {nullptr, project.result, first};
}

void check_depthwise(const Convolution& depthwise) {
    const ov::Shape shape = depthwise.weights->get_shape();
    need(shape.size() == 5 && shape[1] == 1 && shape[2] == 1 && shape[3] == shape[4]);
    need(shape[3] == 3 || shape[3] == 5);
}

void check_project(const Convolution& project, std::size_t channels) {
    const ov::Shape shape = project.weights->get_shape();
    need(shape.size() == 4 && shape[0] % 8 == 0);
    need(shape[1] == channels && shape[2] == 1 && shape[3] == 1);
    need(stride(project.node) == 1 && padding(project.node) == Padding{0, 0});
}

Block block_of(const Node& node) {
    const Node middle = before(node, "FakeQuantize");
    Convolution depthwise = convolution(node);
    check_depthwise(depthwise);
    const Ranges edges = ranges_of(middle);
    per_channel(edges.low, depthwise.channels());
    per_channel(edges.high, depthwise.channels());
    Expansion expansion = expansion_of(middle);
    if (expansion.kind != 0)
        need(consumers(middle).size() == 1);
    const Node hidden = after(swish(after(depthwise.result, "Swish")), "FakeQuantize");
    Squeeze squeeze = squeeze_of(hidden);
    const Node gated = after(squeeze.product, "FakeQuantize");
    Convolution project = convolution(after(gated, "Convolution"));
    check_project(project, depthwise.channels());
    Ending end = ending(project, expansion.entry);
    for (const Node& quantizer : {expansion.entry, hidden, gated, end.exit})
        one_range(quantizer);
    if (end.inner != nullptr)
        one_range(end.inner);
    return {std::move(expansion),
            std::move(depthwise),
            middle,
            hidden,
            std::move(squeeze),
            gated,
            project,
            end};
}

// -------------------- as an operation

ov::Output<ov::Node> rows(const std::vector<Floats>& rows) {
    Floats all;
    for (const Floats& row : rows)
        all.insert(all.end(), row.begin(), row.end());
    return f32({rows.size(), rows[0].size()}, all);
}

/// Inputs of the operation behind the first.
ov::OutputVector weights_of(const Block& block) {
    const Convolution& depthwise = block.depthwise;
    const auto& expansion = block.expansion.convolution;
    const std::size_t channels = depthwise.channels();
    Ranges middle = ranges_of(block.middle);
    const Floats none(channels, 0.0f);
    const Dense &reduce = block.squeeze.reduce, &excite = block.squeeze.excite;
    ov::OutputVector inputs = {
        depthwise.weights->output(0),
        block.project.weights->output(0),
        rows({expansion ? expansion->steps : none, expansion ? expansion->biases : none,
              per_channel(std::move(middle.low), channels),
              per_channel(std::move(middle.high), channels), depthwise.steps, depthwise.biases}),
        rows({block.project.steps, block.project.biases}),
        f32_weights(reduce),
        f32({reduce.biases.size()}, reduce.biases),
        f32_weights(excite),
        f32({excite.biases.size()}, excite.biases)};
    if (expansion)
        inputs.push_back(expansion->weights->output(0));
    return inputs;
}

TiledMBConvAttributes attributes_of(const Block& block, bool emit_float) {
    const Range exit = one_range(block.end.exit);
    const Range inner = block.end.inner == nullptr ? exit : one_range(block.end.inner);
    TiledMBConvAttributes attributes;
    attributes.form.expand = block.expansion.kind;
    attributes.form.kernel = static_cast<std::int64_t>(block.depthwise.weights->get_shape()[3]);
    attributes.form.stride = stride(block.depthwise.node);
    const Padding outer = block.expansion.pads, own = padding(block.depthwise.node);
    attributes.form.pads = {outer[0], outer[1], own[0], own[1]};
    attributes.form.shortcut = block.end.inner != nullptr;
    attributes.emit_float = emit_float;
    for (const Range& range :
         {one_range(block.entry()), one_range(block.hidden), block.squeeze.row_mean,
          block.squeeze.gate, one_range(block.gated), inner, exit})
        attributes.ranges.insert(attributes.ranges.end(), range.begin(), range.end());
    return attributes;
}

TiledBlock tiled(const Block& block) {
    TiledBlock found;
    found.entry = block.entry();
    found.exit = block.end.exit;
    found.raw = block.end.raw;
    found.readers = block.readers();
    found.first_input = [block] { return block.entry()->input_value(0); };
    found.make = [block](const ov::Output<ov::Node>& x, bool emit) {
        ov::OutputVector inputs = weights_of(block);
        inputs.insert(inputs.begin(), x);
        return std::make_shared<TiledMBConv>(inputs, attributes_of(block, emit));
    };
    return found;
}

}  // namespace

std::vector<TiledBlock> int8_blocks(const ov::Model& model) {
    return blocks_of(model, [](const Node& op) { return tiled(block_of(op)); });
}

}  // namespace mammofm
