#include "tiled_mbconv_op.hpp"

#include <cmath>
#include <openvino/core/except.hpp>
#include <utility>

#include "instruction_set.hpp"
#include "tiled_mbconv.hpp"

namespace mammofm {
namespace {

enum Input : std::size_t {
    kX,
    kDepthwise,
    kProject,
    kHidden,
    kOutput,
    kReduce,
    kReduceBias,
    kExcite,
    kExciteBias,
    kExpand,
    kInputs
};
constexpr const char* kNames[] = {"x",      "depthwise",   "project", "hidden",      "output",
                                  "reduce", "reduce_bias", "excite",  "excite_bias", "expand"};
constexpr std::size_t kRanges = 14;

bool is_quantized_weight(std::size_t input) {
    return input == kDepthwise || input == kProject || input == kExpand;
}

std::int64_t size_of(const ov::Shape& shape) {
    return static_cast<std::int64_t>(ov::shape_size(shape));
}

/// Of x: bytes have their channels last, planes first.
MbConvSize size_of_x(const ov::Shape& x, bool planes) {
    const auto axis = [&](std::size_t i) { return static_cast<std::int64_t>(x[i]); };
    return planes ? MbConvSize{axis(1), axis(2), axis(3)} : MbConvSize{axis(3), axis(1), axis(2)};
}

}  // namespace

TiledMBConv::TiledMBConv(const ov::OutputVector& inputs, TiledMBConvAttributes attributes)
    : Op(inputs),
      m_form(std::move(attributes.form)),
      m_emit_float(attributes.emit_float),
      m_ranges(std::move(attributes.ranges)) {
    constructor_validate_and_infer_types();
}

void TiledMBConv::check_attributes() const {
    m_form.check(this);
    NODE_VALIDATION_CHECK(this, m_ranges.size() == kRanges, "ranges must be ", kRanges,
                          " numbers, not ", m_ranges.size());
    for (std::size_t i = 0; i < kRanges; i += 2) {
        const float low = m_ranges[i], high = m_ranges[i + 1];
        NODE_VALIDATION_CHECK(this, std::isfinite(low) && std::isfinite(high) && low <= high,
                              "ranges must be finite and not fall: ", low, ", ", high);
    }
}

void TiledMBConv::check_weights() const {
    const std::size_t count = m_form.expand == 0 ? kExpand : kInputs;
    NODE_VALIDATION_CHECK(this, get_input_size() == count,
                          "TiledMBConv with expand=", m_form.expand, " takes ", count,
                          " inputs, not ", get_input_size());
    for (std::size_t i = kDepthwise; i < count; ++i) {
        const auto expected = is_quantized_weight(i) ? ov::element::i8 : ov::element::f32;
        NODE_VALIDATION_CHECK(this, get_input_element_type(i) == expected, kNames[i], " must be ",
                              expected, ", not ", get_input_element_type(i));
        NODE_VALIDATION_CHECK(this, get_input_partial_shape(i).is_static(), kNames[i],
                              " must have a fixed shape");
    }
}

void TiledMBConv::validate_and_infer_types() {
    check_attributes();
    check_weights();
    const auto& type = get_input_element_type(kX);
    NODE_VALIDATION_CHECK(this, type == ov::element::u8 || type == ov::element::f32,
                          "x must be u8 or f32, not ", type);
    const auto& x = get_input_partial_shape(kX);
    NODE_VALIDATION_CHECK(this, x.is_static() && x.size() == 4 && x[0] == 1,
                          "x must have the fixed shape [1, H, W, C], or [1, C, H, W] in f32, not ",
                          x);
    const auto elements = [this](Input input) { return size_of(get_input_shape(input)); };
    const std::int64_t hidden = elements(kExciteBias), squeeze = elements(kReduceBias);
    const std::int64_t outputs = elements(kOutput) / 2;
    const bool planes = type == ov::element::f32;
    const MbConvShape shape =
        m_form.shape(this, size_of_x(x.to_shape(), planes), hidden, squeeze, outputs);
    const std::int64_t channels = shape.in_channels;
    const auto check = [&](Input input, std::int64_t wanted) {
        NODE_VALIDATION_CHECK(this, elements(input) == wanted, kNames[input], " must have ", wanted,
                              " elements, not ", elements(input));
    };
    check(kDepthwise, hidden * m_form.kernel * m_form.kernel);
    check(kProject, outputs * hidden);
    check(kHidden, 6 * hidden);
    check(kReduce, squeeze * hidden);
    check(kExcite, squeeze * hidden);
    if (m_form.expand != 0)
        check(kExpand, hidden * (m_form.expand == 3 ? 9 : channels));
    const auto size = [](std::int64_t value) { return static_cast<std::size_t>(value); };
    const std::size_t height = size(shape.out_height), width = size(shape.out_width);
    set_output_size(m_emit_float ? 2 : 1);
    set_output_type(0, ov::element::u8, ov::Shape{1, height, width, size(outputs)});
    if (m_emit_float)
        set_output_type(1, ov::element::f32, ov::Shape{1, size(outputs), height, width});
}

std::shared_ptr<ov::Node> TiledMBConv::clone_with_new_inputs(const ov::OutputVector& inputs) const {
    return std::make_shared<TiledMBConv>(inputs,
                                         TiledMBConvAttributes{m_form, m_emit_float, m_ranges});
}

bool TiledMBConv::visit_attributes(ov::AttributeVisitor& visitor) {
    m_form.visit(visitor);
    visitor.on_attribute("emit_float", m_emit_float);
    visitor.on_attribute("ranges", m_ranges);
    return true;
}

bool TiledMBConv::has_evaluate() const {
    return true;
}

std::shared_ptr<const MbConv> TiledMBConv::packed(const ov::TensorVector& inputs) const {
    const std::lock_guard<std::mutex> lock(m_mutex);
    if (m_packed)
        return m_packed;
    const auto elements = [&](Input input) { return size_of(inputs[input].get_shape()); };
    const bool planes = inputs[kX].get_element_type() == ov::element::f32;
    const MbConvShape shape =
        m_form.shape(size_of_x(inputs[kX].get_shape(), planes), elements(kExciteBias),
                     elements(kReduceBias), elements(kOutput) / 2);
    const auto range = [this](std::size_t i) {
        return MbRange{m_ranges[2 * i], m_ranges[2 * i + 1]};
    };
    const MbConvRanges ranges{range(0), range(1), range(2), range(3),
                              range(4), range(5), range(6), m_ranges[5] > m_ranges[4]};
    const auto bytes = [&](Input input) { return inputs[input].data<const std::int8_t>(); };
    const auto floats = [&](Input input) { return inputs[input].data<const float>(); };
    const MbConvWeights weights{m_form.expand == 0 ? nullptr : bytes(kExpand), bytes(kDepthwise),
                                bytes(kProject), floats(kHidden), floats(kOutput)};
    m_packed = std::make_shared<const MbConv>(shape, ranges, weights);
    for (std::size_t input = kDepthwise; input < inputs.size(); ++input) {
        if (is_quantized_weight(input))
            give_back_pages(inputs[input].data(), inputs[input].get_byte_size());
    }
    return m_packed;
}

bool TiledMBConv::evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const {
    const InstructionSet& selected = selected_instruction_set();
    if (!selected.error.empty())
        OPENVINO_THROW(selected.error);
    for (std::size_t i = 0; i < outputs.size(); ++i)
        outputs[i].set_shape(get_output_shape(i));
    const bool planes = inputs[kX].get_element_type() == ov::element::f32;
    const auto floats = [&](Input input) { return inputs[input].data<const float>(); };
    const MbConvGate gate{floats(kReduce), floats(kReduceBias), floats(kExcite),
                          floats(kExciteBias)};
    packed(inputs)->run(gate, planes ? nullptr : inputs[kX].data<const std::uint8_t>(),
                        planes ? inputs[kX].data<const float>() : nullptr,
                        outputs[0].data<std::uint8_t>(),
                        m_emit_float ? outputs[1].data<float>() : nullptr);
    return true;
}

}  // namespace mammofm
