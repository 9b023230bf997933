#include "tiling.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <openvino/op/constant.hpp>
#include <openvino/op/fake_quantize.hpp>
#include <openvino/op/util/arithmetic_reductions_keep_dims.hpp>
#include <openvino/op/util/avg_pool_base.hpp>
#include <openvino/op/util/convolution_base.hpp>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "../tiled_mbconv_op.hpp"

namespace mammofm {
namespace {

using Node = std::shared_ptr<ov::Node>;
using Floats = std::vector<float>;
using Range = std::array<float, 2>;

constexpr Range kNotRounded = {0.0f, 0.0f};
constexpr std::size_t kLevels = 256;

/// This part of a graph is not what we look for.
struct OtherForm {};

void need(bool condition) {
    if (!condition)
        throw OtherForm();
}

// -------------------- single operations

bool is_of(const Node& node, const char* kind) {
    return std::strcmp(node->get_type_name(), kind) == 0;
}

Node of_kind(const Node& node, const char* kind) {
    need(is_of(node, kind));
    return node;
}

Node before(const Node& node, const char* kind, std::size_t port = 0) {
    return of_kind(node->get_input_node_shared_ptr(port), kind);
}

std::vector<Node> consumers(const Node& node) {
    std::vector<Node> found;
    for (const ov::Input<ov::Node>& target : node->output(0).get_target_inputs())
        found.push_back(target.get_node()->shared_from_this());
    return found;
}

/// The only consumer.
Node after(const Node& node, const char* kind) {
    const std::vector<Node> found = consumers(node);
    need(found.size() == 1);
    return of_kind(found[0], kind);
}

/// A constant, or one that is stored in half precision.
std::shared_ptr<ov::op::v0::Constant> constant(const Node& node, std::size_t port) {
    Node source = node->get_input_node_shared_ptr(port);
    if (is_of(source, "Convert"))
        source = source->get_input_node_shared_ptr(0);
    auto found = ov::as_type_ptr<ov::op::v0::Constant>(source);
    need(found != nullptr);
    return found;
}

/// x * sigmoid(x): without a factor within, or with one of 1.
Node swish(const Node& node) {
    of_kind(node, "Swish");
    if (node->get_input_size() == 1)
        return node;
    const Floats factors = constant(node, 1)->cast_vector<float>();
    need(std::all_of(factors.begin(), factors.end(), [](float one) { return one == 1.0f; }));
    return node;
}

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

Floats per_channel(Floats values, std::size_t channels) {
    need(values.size() == 1 || values.size() == channels);
    if (values.size() != channels)
        values.assign(channels, values[0]);
    return values;
}

/// A convolution with 8-bit weights, and the sum that follows it.
struct Convolution {
    Node node;
    std::shared_ptr<ov::op::v0::Constant> weights;  // bytes
    Floats steps, biases;                           // [out]
    Node result;                                    // the sum

    std::size_t channels() const { return steps.size(); }
    const ov::op::util::ConvolutionBase& attributes() const {
        return *ov::as_type<ov::op::util::ConvolutionBase>(node.get());
    }
};

Convolution convolution(const Node& node) {
    const auto attributes = ov::as_type_ptr<ov::op::util::ConvolutionBase>(node);
    need(attributes != nullptr);
    const Node product = before(node, "Multiply", 1);
    const Node weights = before(before(product, "Convert"), "Constant");
    need(weights->get_output_element_type(0) == ov::element::i8);
    const std::size_t channels = weights->get_output_shape(0)[0];
    const Node total = after(node, "Add");
    need(total->get_input_node_shared_ptr(0) == node);
    need(attributes->get_dilations() == ov::Strides({1, 1}));
    need(attributes->get_auto_pad() == ov::op::PadType::EXPLICIT ||
         attributes->get_auto_pad() == ov::op::PadType::VALID);
    return {node, ov::as_type_ptr<ov::op::v0::Constant>(weights),
            per_channel(constant(product, 1)->cast_vector<float>(), channels),
            per_channel(constant(total, 1)->cast_vector<float>(), channels), total};
}

/// Weights [out, in] and biases of a float convolution over one cell, and the sum after it.
struct Dense {
    ov::Shape shape;
    Floats weights, biases;
    Node result;
};

Dense dense(const Node& node) {
    const auto weights = constant(node, 1);
    const ov::Shape& shape = weights->get_shape();
    need(shape.size() == 4 && shape[2] == 1 && shape[3] == 1);
    const Node total = after(node, "Add");
    return {{shape[0], shape[1]},
            weights->cast_vector<float>(),
            per_channel(constant(total, 1)->cast_vector<float>(), shape[0]),
            total};
}

using Padding = std::array<std::int64_t, 2>;

/// Zeros before and after, alike in both directions.
Padding padding(const Convolution& convolution) {
    const ov::CoordinateDiff& before = convolution.attributes().get_pads_begin();
    const ov::CoordinateDiff& after = convolution.attributes().get_pads_end();
    need(before[0] == before[1] && after[0] == after[1]);
    return {before[0], after[0]};
}

std::int64_t stride(const Convolution& convolution) {
    const ov::Strides& strides = convolution.attributes().get_strides();
    need(strides == ov::Strides({1, 1}) || strides == ov::Strides({2, 2}));
    return static_cast<std::int64_t>(strides[0]);
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
    if (shape[2] == 1 && shape[3] == 1 && stride(*found) == 1 && padding(*found) == Padding{0, 0}) {
        need(shape[1] % 4 == 0);
        return {1, found, {0, 0}, entry};
    }
    if (shape[1] == 1 && shape[2] == 3 && shape[3] == 3 && stride(*found) == 2)
        return {3, found, padding(*found), entry};
    return {0, std::nullopt, {0, 0}, middle};
}

struct Means {
    Range row_mean;  // range of the rounded means of rows, if they are rounded
    Node mean, product;
};

/// The mean of rows that is rounded, and its range.
std::pair<Node, Range> rounded_rows(const Node& pooled, std::size_t width) {
    const auto attributes = ov::as_type_ptr<ov::op::util::AvgPoolBase>(pooled);
    need(attributes != nullptr && attributes->get_kernel() == ov::Shape({1, width}));
    need(attributes->get_pads_begin() == ov::Shape({0, 0}));
    need(attributes->get_pads_end() == ov::Shape({0, 0}));
    const Node rounding = after(pooled, "FakeQuantize");
    const Range range = one_range(rounding);
    need(range[0] < range[1]);
    return {after(rounding, "ReduceMean"), range};
}

Means means(const Node& hidden) {
    std::vector<Node> readers = consumers(hidden);
    need(readers.size() == 2);
    if (is_of(readers[0], "Multiply"))
        std::swap(readers[0], readers[1]);
    need(is_of(readers[1], "Multiply") && !is_of(readers[0], "Multiply"));
    Means found = {kNotRounded, readers[0], readers[1]};
    if (!is_of(readers[0], "ReduceMean"))
        std::tie(found.mean, found.row_mean) =
            rounded_rows(readers[0], hidden->get_output_shape(0)[3]);
    std::set<std::int64_t> axes;
    for (std::int64_t axis : constant(found.mean, 1)->cast_vector<std::int64_t>())
        axes.insert((axis + 4) % 4);
    need(axes == std::set<std::int64_t>({2, 3}));
    const auto kept = ov::as_type_ptr<ov::op::util::ArithmeticReductionKeepDims>(found.mean);
    need(kept != nullptr && kept->get_keep_dims());
    return found;
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
    stride(depthwise);
    padding(depthwise);
}

void check_project(const Convolution& project, std::size_t channels) {
    const ov::Shape shape = project.weights->get_shape();
    need(shape.size() == 4 && shape[0] % 8 == 0);
    need(shape[1] == channels && shape[2] == 1 && shape[3] == 1);
    need(stride(project) == 1 && padding(project) == Padding{0, 0});
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

/// All blocks of the known form, first to last.
std::vector<Block> blocks_of(const ov::Model& model) {
    std::vector<Block> found;
    for (const Node& op : model.get_ordered_ops()) {
        if (!is_of(op, "GroupConvolution"))
            continue;
        try {
            found.push_back(block_of(op));
        } catch (const OtherForm&) {
        }
    }
    return found;
}

// -------------------- rewriting

ov::Output<ov::Node> f32(const ov::Shape& shape, const Floats& values) {
    return ov::op::v0::Constant::create(ov::element::f32, shape, values)->output(0);
}

ov::Output<ov::Node> rows(const std::vector<Floats>& rows) {
    Floats all;
    for (const Floats& row : rows)
        all.insert(all.end(), row.begin(), row.end());
    return f32({rows.size(), rows[0].size()}, all);
}

/// The weights [outputs, inputs] of a product as [inputs, outputs].
ov::Output<ov::Node> turned(const Dense& dense) {
    const std::size_t outputs = dense.shape[0], inputs = dense.shape[1];
    Floats all(dense.weights.size());
    for (std::size_t o = 0; o < outputs; ++o)
        for (std::size_t i = 0; i < inputs; ++i)
            all[i * outputs + o] = dense.weights[o * inputs + i];
    return f32({inputs, outputs}, all);
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
        turned(reduce),
        f32({reduce.biases.size()}, reduce.biases),
        turned(excite),
        f32({excite.biases.size()}, excite.biases)};
    if (expansion)
        inputs.push_back(expansion->weights->output(0));
    return inputs;
}

TiledMBConvAttributes attributes_of(const Block& block, bool emit_float) {
    const Range exit = one_range(block.end.exit);
    const Range inner = block.end.inner == nullptr ? exit : one_range(block.end.inner);
    TiledMBConvAttributes attributes;
    attributes.expand = block.expansion.kind;
    attributes.kernel = static_cast<std::int64_t>(block.depthwise.weights->get_shape()[3]);
    attributes.stride = stride(block.depthwise);
    const Padding outer = block.expansion.pads, own = padding(block.depthwise);
    attributes.pads = {outer[0], outer[1], own[0], own[1]};
    attributes.shortcut = block.end.inner != nullptr;
    attributes.emit_float = emit_float;
    for (const Range& range :
         {one_range(block.entry()), one_range(block.hidden), block.squeeze.row_mean,
          block.squeeze.gate, one_range(block.gated), inner, exit})
        attributes.ranges.insert(attributes.ranges.end(), range.begin(), range.end());
    return attributes;
}

/// Whether anything but the operations `readers` needs what the block ends in.
bool read_elsewhere(const Block& block, const std::set<Node>& readers) {
    for (const Node& node : consumers(block.end.raw)) {
        if (node != block.end.exit)
            return true;
    }
    for (const Node& node : consumers(block.end.exit)) {
        if (readers.count(node) == 0)
            return true;
    }
    return false;
}

/// Let what read the block's last values in float read those of the operation.
void emit_float(const Node& node, const Block& block) {
    ov::Output<ov::Node> replaced = block.end.raw->output(0), output = node->output(1);
    output.set_names(replaced.get_names());
    for (ov::Input<ov::Node> target : replaced.get_target_inputs())
        target.replace_source_output(output);
}

}  // namespace

std::size_t tile(ov::Model& model) {
    const std::vector<Block> blocks = blocks_of(model);
    std::map<Node, std::set<Node>> readers;
    for (const Block& block : blocks) {
        const std::set<Node> own = block.readers();
        readers[block.entry()].insert(own.begin(), own.end());
    }
    std::vector<bool> floats;
    for (const Block& block : blocks)
        floats.push_back(read_elsewhere(block, readers[block.end.exit]));
    std::map<Node, Node> made;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        const Block& block = blocks[i];
        const auto previous = made.find(block.entry());
        ov::OutputVector inputs = weights_of(block);
        inputs.insert(inputs.begin(), previous == made.end() ? block.entry()->input_value(0)
                                                             : previous->second->output(0));
        auto node = std::make_shared<TiledMBConv>(inputs, attributes_of(block, floats[i]));
        node->set_friendly_name(block.end.exit->get_friendly_name() + "/tiled");
        if (floats[i])
            emit_float(node, block);
        made[block.end.exit] = node;
    }
    model.validate_nodes_and_infer_types();
    return blocks.size();
}

}  // namespace mammofm
