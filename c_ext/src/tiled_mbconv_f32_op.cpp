#include "tiled_mbconv_f32_op.hpp"

#include <openvino/core/except.hpp>
#include <openvino/core/type/float16.hpp>
#include <utility>
#include <vector>

#include "instruction_set.hpp"
#include "tiled_mbconv_f32.hpp"

namespace mammofm {
namespace {

enum Input : std::size_t {
    kX,
    kDepthwise,
    kDepthwiseBias,
    kProject,
    kProjectBias,
    kReduce,
    kReduceBias,
    kExcite,
    kExciteBias,
    kExpand,
    kExpandBias,
    kInputs
};
constexpr const char* kNames[] = {
    "x",           "depthwise", "depthwise_bias", "project", "project_bias", "reduce",
    "reduce_bias", "excite",    "excite_bias",    "expand",  "expand_bias"};

/// Those of the gate are read in place, the others are packed from either precision.
bool is_of_gate(std::size_t input) {
    return input >= kReduce && input <= kExciteBias;
}

std::int64_t size_of(const ov::Shape& shape) {
    return static_cast<std::int64_t>(ov::shape_size(shape));
}

/// A picture has its planes first, all else its channels last.
MbConvSize size_of_x(const ov::Shape& x, std::int64_t expand) {
    const auto axis = [&](std::size_t i) { return static_cast<std::int64_t>(x[i]); };
    return expand == 3 ? MbConvSize{axis(1), axis(2), axis(3)}
                       : MbConvSize{axis(3), axis(1), axis(2)};
}

/// The numbers of a tensor of float32 or half precision.
std::vector<float> floats_of(const ov::Tensor& tensor) {
    if (tensor.get_element_type() == ov::element::f32) {
        const float* from = tensor.data<const float>();
        return {from, from + tensor.get_size()};
    }
    const ov::float16* from = tensor.data<const ov::float16>();
    return {from, from + tensor.get_size()};
}

}  // namespace

TiledMBConvF32::TiledMBConvF32(const ov::OutputVector& inputs, TiledMBConvF32Attributes attributes)
    : Op(inputs), m_form(std::move(attributes.form)), m_emit_planes(attributes.emit_planes) {
    constructor_validate_and_infer_types();
}

void TiledMBConvF32::check_weights() const {
    const std::size_t count = m_form.expand == 0 ? kExpand : kInputs;
    NODE_VALIDATION_CHECK(this, get_input_size() == count,
                          "TiledMBConvF32 with expand=", m_form.expand, " takes ", count,
                          " inputs, not ", get_input_size());
    for (std::size_t i = kDepthwise; i < count; ++i) {
        const auto& type = get_input_element_type(i);
        const bool fits = type == ov::element::f32 || (type == ov::element::f16 && !is_of_gate(i));
        NODE_VALIDATION_CHECK(this, fits, kNames[i], " must be f32", is_of_gate(i) ? "" : " or f16",
                              ", not ", type);
        NODE_VALIDATION_CHECK(this, get_input_partial_shape(i).is_static(), kNames[i],
                              " must have a fixed shape");
    }
}

void TiledMBConvF32::validate_and_infer_types() {
    m_form.check(this);
    check_weights();
    const auto& type = get_input_element_type(kX);
    NODE_VALIDATION_CHECK(this, type == ov::element::f32, "x must be f32, not ", type);
    const auto& x = get_input_partial_shape(kX);
    NODE_VALIDATION_CHECK(this, x.is_static() && x.size() == 4 && x[0] == 1,
                          "x must have the fixed shape [1, H, W, C], or [1, 1, H, W], not ", x);
    const auto elements = [this](Input input) { return size_of(get_input_shape(input)); };
    const std::int64_t hidden = elements(kDepthwiseBias), squeeze = elements(kReduceBias);
    const std::int64_t outputs = elements(kProjectBias);
    const MbConvShape shape =
        m_form.shape(this, size_of_x(x.to_shape(), m_form.expand), hidden, squeeze, outputs);
    const auto check = [&](Input input, std::int64_t wanted) {
        NODE_VALIDATION_CHECK(this, elements(input) == wanted, kNames[input], " must have ", wanted,
                              " elements, not ", elements(input));
    };
    check(kDepthwise, hidden * m_form.kernel * m_form.kernel);
    check(kProject, outputs * hidden);
    check(kReduce, squeeze * hidden);
    check(kExcite, squeeze * hidden);
    check(kExciteBias, hidden);
    if (m_form.expand != 0) {
        check(kExpand, hidden * (m_form.expand == 3 ? 9 : shape.in_channels));
        check(kExpandBias, hidden);
    }
    const auto size = [](std::int64_t value) { return static_cast<std::size_t>(value); };
    const std::size_t height = size(shape.out_height), width = size(shape.out_width);
    set_output_size(m_emit_planes ? 2 : 1);
    set_output_type(0, ov::element::f32, ov::Shape{1, height, width, size(outputs)});
    if (m_emit_planes)
        set_output_type(1, ov::element::f32, ov::Shape{1, size(outputs), height, width});
}

std::shared_ptr<ov::Node> TiledMBConvF32::clone_with_new_inputs(
    const ov::OutputVector& inputs) const {
    return std::make_shared<TiledMBConvF32>(inputs,
                                            TiledMBConvF32Attributes{m_form, m_emit_planes});
}

bool TiledMBConvF32::visit_attributes(ov::AttributeVisitor& visitor) {
    m_form.visit(visitor);
    visitor.on_attribute("emit_planes", m_emit_planes);
    return true;
}

bool TiledMBConvF32::has_evaluate() const {
    return true;
}

std::shared_ptr<const MbConvF32> TiledMBConvF32::packed(const ov::TensorVector& inputs) const {
    const std::lock_guard<std::mutex> lock(m_mutex);
    if (m_packed)
        return m_packed;
    const auto elements = [&](Input input) { return size_of(inputs[input].get_shape()); };
    const MbConvShape shape =
        m_form.shape(size_of_x(inputs[kX].get_shape(), m_form.expand), elements(kDepthwiseBias),
                     elements(kReduceBias), elements(kProjectBias));
    std::vector<float> weights[kInputs];
    for (std::size_t input = kDepthwise; input < inputs.size(); ++input) {
        if (!is_of_gate(input))
            weights[input] = floats_of(inputs[input]);
    }
    const auto data = [&](Input input) {
        return input < inputs.size() ? weights[input].data() : nullptr;
    };
    m_packed = std::make_shared<const MbConvF32>(
        shape, MbConvF32Weights{data(kExpand), data(kDepthwise), data(kProject), data(kExpandBias),
                                data(kDepthwiseBias), data(kProjectBias)});
    for (std::size_t input = kDepthwise; input < inputs.size(); ++input) {
        if (!is_of_gate(input))
            give_back_pages(inputs[input].data(), inputs[input].get_byte_size());
    }
    return m_packed;
}

bool TiledMBConvF32::evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const {
    const InstructionSet& selected = selected_instruction_set();
    if (!selected.error.empty())
        OPENVINO_THROW(selected.error);
    for (std::size_t i = 0; i < outputs.size(); ++i)
        outputs[i].set_shape(get_output_shape(i));
    const auto floats = [&](Input input) { return inputs[input].data<const float>(); };
    const MbConvGate gate{floats(kReduce), floats(kReduceBias), floats(kExcite),
                          floats(kExciteBias)};
    packed(inputs)->run(gate, floats(kX), outputs[0].data<float>(),
                        m_emit_planes ? outputs[1].data<float>() : nullptr);
    return true;
}

}  // namespace mammofm
