// Parts of a graph, where they have a known form: for passes that replace them. As
// mammofm_lite/graph_match.py.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <openvino/core/model.hpp>
#include <openvino/core/node.hpp>
#include <openvino/op/constant.hpp>
#include <openvino/op/util/arithmetic_reductions_keep_dims.hpp>
#include <openvino/op/util/avg_pool_base.hpp>
#include <openvino/op/util/convolution_base.hpp>
#include <set>
#include <vector>

namespace mammofm::match {

using Node = std::shared_ptr<ov::Node>;
using Floats = std::vector<float>;

/// This part of a graph is not what we look for.
struct OtherForm {};

inline void need(bool condition) {
    if (!condition)
        throw OtherForm();
}

// -------------------- single operations

inline bool is_of(const Node& node, const char* kind) {
    return std::strcmp(node->get_type_name(), kind) == 0;
}

inline Node of_kind(const Node& node, const char* kind) {
    need(is_of(node, kind));
    return node;
}

inline Node before(const Node& node, const char* kind, std::size_t port = 0) {
    return of_kind(node->get_input_node_shared_ptr(port), kind);
}

inline std::vector<Node> consumers(const Node& node) {
    std::vector<Node> found;
    for (const ov::Input<ov::Node>& target : node->output(0).get_target_inputs())
        found.push_back(target.get_node()->shared_from_this());
    return found;
}

/// The only consumer.
inline Node after(const Node& node, const char* kind) {
    const std::vector<Node> found = consumers(node);
    need(found.size() == 1);
    return of_kind(found[0], kind);
}

/// A constant, or one that is stored in half precision.
inline std::shared_ptr<ov::op::v0::Constant> constant(const Node& node, std::size_t port) {
    Node source = node->get_input_node_shared_ptr(port);
    if (is_of(source, "Convert"))
        source = source->get_input_node_shared_ptr(0);
    auto found = ov::as_type_ptr<ov::op::v0::Constant>(source);
    need(found != nullptr);
    return found;
}

/// x * sigmoid(x): without a factor within, or with one of 1.
inline Node swish(const Node& node) {
    of_kind(node, "Swish");
    if (node->get_input_size() == 1)
        return node;
    const Floats factors = constant(node, 1)->cast_vector<float>();
    need(std::all_of(factors.begin(), factors.end(), [](float one) { return one == 1.0f; }));
    return node;
}

inline Floats per_channel(Floats values, std::size_t channels) {
    need(values.size() == 1 || values.size() == channels);
    if (values.size() != channels)
        values.assign(channels, values[0]);
    return values;
}

/// A convolution's attributes.
inline const ov::op::util::ConvolutionBase& convolution_of(const Node& node) {
    const auto* found = ov::as_type<ov::op::util::ConvolutionBase>(node.get());
    need(found != nullptr);
    return *found;
}

/// The sum of a convolution and its biases, in this order.
inline Node sum_after(const Node& node) {
    const Node total = after(node, "Add");
    need(total->get_input_node_shared_ptr(0) == node);
    return total;
}

/// Weights [out, in] and biases of a float convolution over one cell, and the sum after it.
struct Dense {
    std::shared_ptr<ov::op::v0::Constant> weights;
    Floats biases;
    Node result;
};

inline Dense dense(const Node& node) {
    const auto weights = constant(node, 1);
    const ov::Shape& shape = weights->get_shape();
    need(shape.size() == 4 && shape[2] == 1 && shape[3] == 1);
    const Node total = after(node, "Add");
    return {weights, per_channel(constant(total, 1)->cast_vector<float>(), shape[0]), total};
}

using Padding = std::array<std::int64_t, 2>;

/// Zeros before and after, alike in both directions.
inline Padding padding(const Node& node) {
    const auto& attributes = convolution_of(node);
    need(attributes.get_auto_pad() == ov::op::PadType::EXPLICIT ||
         attributes.get_auto_pad() == ov::op::PadType::VALID);
    const ov::CoordinateDiff& before = attributes.get_pads_begin();
    const ov::CoordinateDiff& after = attributes.get_pads_end();
    need(before[0] == before[1] && after[0] == after[1]);
    return {before[0], after[0]};
}

/// 1 or 2, alike in both directions, with nothing between the kernel's cells.
inline std::int64_t stride(const Node& node) {
    const auto& attributes = convolution_of(node);
    need(attributes.get_dilations() == ov::Strides({1, 1}));
    const ov::Strides& strides = attributes.get_strides();
    need(strides == ov::Strides({1, 1}) || strides == ov::Strides({2, 2}));
    return static_cast<std::int64_t>(strides[0]);
}

/// An average over rows of a width, which is what `pooled` must be.
inline Node row_means(const Node& pooled, std::size_t width) {
    const auto attributes = ov::as_type_ptr<ov::op::util::AvgPoolBase>(pooled);
    need(attributes != nullptr && attributes->get_kernel() == ov::Shape({1, width}));
    need(attributes->get_pads_begin() == ov::Shape({0, 0}));
    need(attributes->get_pads_end() == ov::Shape({0, 0}));
    return pooled;
}

/// A mean over rows and columns that keeps them as axes, which is what `mean` must be.
inline Node pooled_axes(const Node& mean) {
    of_kind(mean, "ReduceMean");
    std::set<std::int64_t> axes;
    for (std::int64_t axis : constant(mean, 1)->cast_vector<std::int64_t>())
        axes.insert((axis + 4) % 4);
    need(axes == std::set<std::int64_t>({2, 3}));
    const auto kept = ov::as_type_ptr<ov::op::util::ArithmeticReductionKeepDims>(mean);
    need(kept != nullptr && kept->get_keep_dims());
    return mean;
}

/// What pools `hidden`, and the product with the gate: its two readers.
struct Pooled {
    Node pooling, product;
};
inline Pooled pooled(const Node& hidden) {
    std::vector<Node> readers = consumers(hidden);
    need(readers.size() == 2);
    if (is_of(readers[0], "Multiply"))
        std::swap(readers[0], readers[1]);
    need(is_of(readers[1], "Multiply") && !is_of(readers[0], "Multiply"));
    return {readers[0], readers[1]};
}

/// What `match` finds at each depthwise convolution that it knows the surroundings of.
template <typename Match>
auto blocks_of(const ov::Model& model, const Match& match) {
    std::vector<decltype(match(Node()))> found;
    for (const Node& op : model.get_ordered_ops()) {
        if (!is_of(op, "GroupConvolution"))
            continue;
        try {
            found.push_back(match(op));
        } catch (const OtherForm&) {
        }
    }
    return found;
}

// -------------------- new constants

inline ov::Output<ov::Node> f32(const ov::Shape& shape, const Floats& values) {
    return ov::op::v0::Constant::create(ov::element::f32, shape, values)->output(0);
}

/// The weights [outputs, inputs] of a product: those of the graph itself, if they are float32.
inline ov::Output<ov::Node> f32_weights(const Dense& dense) {
    if (dense.weights->get_element_type() == ov::element::f32)
        return dense.weights->output(0);
    return f32(dense.weights->get_shape(), dense.weights->cast_vector<float>());
}

}  // namespace mammofm::match
