#include "tiled_attention_op.hpp"

#include <cmath>
#include <openvino/core/except.hpp>
#include <utility>

#include "attention_precision.hpp"
#include "instruction_set.hpp"
#include "tiled_attention.hpp"
#include "tiled_attention_kernel.hpp"

namespace mammofm {
namespace {

constexpr std::size_t kQuery = 0, kKey = 1, kValue = 2, kKeyMask = 3;
constexpr std::size_t kBatch = 0, kHeads = 1, kLength = 2, kDepth = 3;
constexpr const char* kInputNames[] = {"query", "key", "value", "key_mask"};

bool is_mask_type(const ov::element::Type& type) {
    return type.is_dynamic() || type == ov::element::boolean || type == ov::element::u8;
}

}  // namespace

TiledAttention::TiledAttention(const ov::OutputVector& inputs, bool causal, std::int64_t window,
                               float scale, std::string precision)
    : Op(inputs),
      m_causal(causal),
      m_window(window),
      m_scale(scale),
      m_precision(std::move(precision)) {
    constructor_validate_and_infer_types();
}

void TiledAttention::validate_and_infer_types() {
    const std::size_t count = get_input_size();
    NODE_VALIDATION_CHECK(this, count == 3 || count == 4,
                          "TiledAttention takes query, key, value and optionally key_mask, not ",
                          count, " inputs");
    NODE_VALIDATION_CHECK(this, m_window >= -1, "window must be -1 (unlimited) or at least 0, not ",
                          m_window);
    NODE_VALIDATION_CHECK(this, std::isfinite(m_scale), "scale must be finite, not ", m_scale);
    NODE_VALIDATION_CHECK(this, is_attention_precision(m_precision),
                          "precision must be float32 or int8, not '", m_precision, "'");
    for (std::size_t i = kQuery; i <= kValue; ++i) {
        const auto& type = get_input_element_type(i);
        NODE_VALIDATION_CHECK(this, type.is_dynamic() || type == ov::element::f32, kInputNames[i],
                              " must be f32, not ", type);
        const auto& rank = get_input_partial_shape(i).rank();
        NODE_VALIDATION_CHECK(this, rank.compatible(4), kInputNames[i],
                              " must have 4 dimensions [batch, heads, length, depth], not ", rank);
    }
    if (count == 4) {
        NODE_VALIDATION_CHECK(this, is_mask_type(get_input_element_type(kKeyMask)),
                              "key_mask must be boolean or u8, not ",
                              get_input_element_type(kKeyMask));
        const auto& rank = get_input_partial_shape(kKeyMask).rank();
        NODE_VALIDATION_CHECK(this, rank.compatible(2),
                              "key_mask must have 2 dimensions [batch, keys], not ", rank);
    }

    const auto shape_of = [this](std::size_t input, std::int64_t rank) {
        const auto& shape = get_input_partial_shape(input);
        return shape.rank().is_static() ? shape : ov::PartialShape::dynamic(rank);
    };
    const auto query = shape_of(kQuery, 4), key = shape_of(kKey, 4), value = shape_of(kValue, 4);
    auto output = query;
    const auto merge = [this](ov::Dimension& into, const ov::Dimension& other, const char* what) {
        const ov::Dimension before = into;
        NODE_VALIDATION_CHECK(this, ov::Dimension::merge(into, before, other), what, ": ", before,
                              " and ", other);
    };
    merge(output[kBatch], key[kBatch], "query and key differ in batch");
    merge(output[kBatch], value[kBatch], "query and value differ in batch");
    merge(output[kHeads], key[kHeads], "query and key differ in heads");
    merge(output[kHeads], value[kHeads], "query and value differ in heads");
    merge(output[kDepth], key[kDepth], "query and key differ in depth");
    merge(output[kDepth], value[kDepth], "query and value differ in depth");
    ov::Dimension keys = key[kLength];
    merge(keys, value[kLength], "key and value differ in length");
    if (count == 4) {
        const auto mask = shape_of(kKeyMask, 2);
        merge(output[kBatch], mask[0], "query and key_mask differ in batch");
        merge(keys, mask[1], "key and key_mask differ in length");
    }
    NODE_VALIDATION_CHECK(this, output[kDepth].compatible(ov::Dimension(1, kMaxDepth)),
                          "depth must be 1 to ", kMaxDepth, ", not ", output[kDepth]);
    set_output_type(0, ov::element::f32, output);
}

std::shared_ptr<ov::Node> TiledAttention::clone_with_new_inputs(
    const ov::OutputVector& inputs) const {
    return std::make_shared<TiledAttention>(inputs, m_causal, m_window, m_scale, m_precision);
}

bool TiledAttention::visit_attributes(ov::AttributeVisitor& visitor) {
    visitor.on_attribute("causal", m_causal);
    visitor.on_attribute("window", m_window);
    visitor.on_attribute("scale", m_scale);
    visitor.on_attribute("precision", m_precision);
    return true;
}

bool TiledAttention::has_evaluate() const {
    return get_input_element_type(kQuery) == ov::element::f32;
}

bool TiledAttention::evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const {
    const InstructionSet& selected = selected_instruction_set();
    if (!selected.error.empty())
        OPENVINO_THROW(selected.error);
    if (!attention_precision_error().empty())
        OPENVINO_THROW(attention_precision_error());

    const ov::Shape& shape = inputs[kQuery].get_shape();
    outputs[0].set_shape(shape);
    AttentionProblem problem{};
    problem.query = inputs[kQuery].data<const float>();
    problem.key = inputs[kKey].data<const float>();
    problem.value = inputs[kValue].data<const float>();
    if (inputs.size() == 4)  // boolean and u8 alike are one byte per element
        problem.key_mask = static_cast<const std::uint8_t*>(inputs[kKeyMask].data());
    problem.output = outputs[0].data<float>();
    problem.batch = static_cast<std::int64_t>(shape[kBatch]);
    problem.heads = static_cast<std::int64_t>(shape[kHeads]);
    problem.queries = static_cast<std::int64_t>(shape[kLength]);
    problem.keys = static_cast<std::int64_t>(inputs[kKey].get_shape()[kLength]);
    problem.depth = static_cast<std::int64_t>(shape[kDepth]);
    problem.causal = m_causal;
    problem.window = m_window;
    problem.scale = m_scale != 0.0f ? m_scale : 1.0f / std::sqrt(static_cast<float>(problem.depth));
    problem.int8 = attention_runs_int8(m_precision);
    tiled_attention(problem, selected);
    return true;
}

}  // namespace mammofm
