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
constexpr std::size_t kRanges = 14, kPads = 4;

bool is_quantized_weight(std::size_t input) {
    return input == kDepthwise || input == kProject || input == kExpand;
}

std::int64_t size_of(const ov::Shape& shape) {
    return static_cast<std::int64_t>(ov::shape_size(shape));
}

/// Length of an axis after a convolution.
std::int64_t convolved(std::int64_t length, std::int64_t kernel, std::int64_t stride,
                       std::int64_t padding) {
    return (length + padding - kernel) / stride + 1;
}

struct Attributes {
    std::int64_t expand, kernel, stride;
    const std::vector<std::int64_t>& pads;
    bool shortcut;
};

/// Sizes from the shapes of x, of the biases and of the outputs' values.
MbConvShape shape_of(const Attributes& attributes, const ov::Shape& x, bool planes,
                     std::int64_t hidden, std::int64_t squeeze, std::int64_t outputs) {
    const auto axis = [&](std::size_t i) { return static_cast<std::int64_t>(x[i]); };
    MbConvShape shape{};
    shape.in_channels = axis(planes ? 1 : 3);
    shape.in_height = axis(planes ? 2 : 1);
    shape.in_width = axis(planes ? 3 : 2);
    shape.expand = attributes.expand;
    shape.expand_pad = attributes.pads[0];
    shape.hidden = hidden;
    const std::int64_t outer = attributes.pads[0] + attributes.pads[1];
    const bool strided = attributes.expand == 3;
    shape.height = strided ? convolved(shape.in_height, 3, 2, outer) : shape.in_height;
    shape.width = strided ? convolved(shape.in_width, 3, 2, outer) : shape.in_width;
    shape.kernel = attributes.kernel;
    shape.stride = attributes.stride;
    shape.pad = attributes.pads[2];
    const std::int64_t inner = attributes.pads[2] + attributes.pads[3];
    shape.out_height = convolved(shape.height, shape.kernel, shape.stride, inner);
    shape.out_width = convolved(shape.width, shape.kernel, shape.stride, inner);
    shape.squeeze = squeeze;
    shape.out_channels = outputs;
    shape.shortcut = attributes.shortcut;
    return shape;
}

}  // namespace

TiledMBConv::TiledMBConv(const ov::OutputVector& inputs, TiledMBConvAttributes attributes)
    : Op(inputs),
      m_expand(attributes.expand),
      m_kernel(attributes.kernel),
      m_stride(attributes.stride),
      m_pads(std::move(attributes.pads)),
      m_shortcut(attributes.shortcut),
      m_emit_float(attributes.emit_float),
      m_ranges(std::move(attributes.ranges)) {
    constructor_validate_and_infer_types();
}

void TiledMBConv::check_attributes() const {
    NODE_VALIDATION_CHECK(this, m_expand == 0 || m_expand == 1 || m_expand == 3,
                          "expand must be 0, 1 or 3, not ", m_expand);
    NODE_VALIDATION_CHECK(this, m_kernel == 3 || m_kernel == 5, "kernel must be 3 or 5, not ",
                          m_kernel);
    NODE_VALIDATION_CHECK(this, m_stride == 1 || m_stride == 2, "stride must be 1 or 2, not ",
                          m_stride);
    NODE_VALIDATION_CHECK(this, m_pads.size() == kPads, "pads must be 4 numbers, not ",
                          m_pads.size());
    for (std::size_t i = 0; i < kPads; ++i) {
        const std::int64_t most = i < 2 ? 2 : m_kernel - 1;
        NODE_VALIDATION_CHECK(this, m_pads[i] >= 0 && m_pads[i] <= most, "pads must be 0 to ", most,
                              ", not ", m_pads[i]);
    }
    NODE_VALIDATION_CHECK(this, m_ranges.size() == kRanges, "ranges must be ", kRanges,
                          " numbers, not ", m_ranges.size());
    for (std::size_t i = 0; i < kRanges; i += 2) {
        const float low = m_ranges[i], high = m_ranges[i + 1];
        NODE_VALIDATION_CHECK(this, std::isfinite(low) && std::isfinite(high) && low <= high,
                              "ranges must be finite and not fall: ", low, ", ", high);
    }
}

void TiledMBConv::check_weights() const {
    const std::size_t count = m_expand == 0 ? kExpand : kInputs;
    NODE_VALIDATION_CHECK(this, get_input_size() == count, "TiledMBConv with expand=", m_expand,
                          " takes ", count, " inputs, not ", get_input_size());
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
    const MbConvShape shape = shape_of({m_expand, m_kernel, m_stride, m_pads, m_shortcut},
                                       x.to_shape(), planes, hidden, squeeze, outputs);
    NODE_VALIDATION_CHECK(this, shape.out_height > 0 && shape.out_width > 0,
                          "x is smaller than the kernel: ", x);
    const std::int64_t channels = shape.in_channels;
    const bool fits = m_expand == 0   ? channels == hidden && channels % 8 == 0
                      : m_expand == 1 ? channels % 4 == 0
                                      : channels == 1;
    NODE_VALIDATION_CHECK(this, fits, "expand=", m_expand, " and hidden=", hidden,
                          " do not fit x of ", channels, " channels");
    NODE_VALIDATION_CHECK(this, outputs > 0 && outputs % 8 == 0,
                          "output channels must be a multiple of 8, not ", outputs);
    const bool same = m_stride == 1 && outputs == channels && m_expand != 3 &&
                      shape.out_height == shape.in_height && shape.out_width == shape.in_width;
    NODE_VALIDATION_CHECK(this, !m_shortcut || same, "a shortcut needs an output shaped like x");
    const auto check = [&](Input input, std::int64_t wanted) {
        NODE_VALIDATION_CHECK(this, elements(input) == wanted, kNames[input], " must have ", wanted,
                              " elements, not ", elements(input));
    };
    check(kDepthwise, hidden * m_kernel * m_kernel);
    check(kProject, outputs * hidden);
    check(kHidden, 6 * hidden);
    check(kReduce, squeeze * hidden);
    check(kExcite, squeeze * hidden);
    if (m_expand != 0)
        check(kExpand, hidden * (m_expand == 3 ? 9 : channels));
    const auto size = [](std::int64_t value) { return static_cast<std::size_t>(value); };
    const std::size_t height = size(shape.out_height), width = size(shape.out_width);
    set_output_size(m_emit_float ? 2 : 1);
    set_output_type(0, ov::element::u8, ov::Shape{1, height, width, size(outputs)});
    if (m_emit_float)
        set_output_type(1, ov::element::f32, ov::Shape{1, size(outputs), height, width});
}

std::shared_ptr<ov::Node> TiledMBConv::clone_with_new_inputs(const ov::OutputVector& inputs) const {
    return std::make_shared<TiledMBConv>(
        inputs, TiledMBConvAttributes{m_expand, m_kernel, m_stride, m_pads, m_shortcut,
                                      m_emit_float, m_ranges});
}

bool TiledMBConv::visit_attributes(ov::AttributeVisitor& visitor) {
    visitor.on_attribute("expand", m_expand);
    visitor.on_attribute("kernel", m_kernel);
    visitor.on_attribute("stride", m_stride);
    visitor.on_attribute("pads", m_pads);
    visitor.on_attribute("shortcut", m_shortcut);
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
    const MbConvShape shape =
        shape_of({m_expand, m_kernel, m_stride, m_pads, m_shortcut}, inputs[kX].get_shape(),
                 inputs[kX].get_element_type() == ov::element::f32, elements(kExciteBias),
                 elements(kReduceBias), elements(kOutput) / 2);
    const auto range = [this](std::size_t i) {
        return MbRange{m_ranges[2 * i], m_ranges[2 * i + 1]};
    };
    const MbConvRanges ranges{range(0), range(1), range(2), range(3),
                              range(4), range(5), range(6), m_ranges[5] > m_ranges[4]};
    const auto bytes = [&](Input input) { return inputs[input].data<const std::int8_t>(); };
    const auto floats = [&](Input input) { return inputs[input].data<const float>(); };
    const MbConvWeights weights{m_expand == 0 ? nullptr : bytes(kExpand), bytes(kDepthwise),
                                bytes(kProject), floats(kHidden), floats(kOutput)};
    m_packed = std::make_shared<const MbConv>(shape, ranges, weights);
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
