// The operation TiledMBConvF32 of the domain "mammofm", as OpenVINO sees it.
#pragma once

#include <memory>
#include <mutex>
#include <openvino/op/op.hpp>

#include "mbconv_op_common.hpp"

namespace mammofm {

class MbConvF32;

/// As TiledMBConvF32 describes them.
struct TiledMBConvF32Attributes {
    MbConvForm form;
    bool emit_planes = false;
};

/// An inverted bottleneck in float32: expand, swish, depthwise, swish, squeeze-excite, project and
/// shortcut.
///
/// Inputs
///   x               f32 [1, H, W, C]; or a picture [1, 1, H, W], where `expand` is 3
///   depthwise       f32 or f16 [M, K, K], of any shape with as many elements, as are the following
///   depthwise_bias  [M]
///   project         [N, M]
///   project_bias    [N]
///   reduce          f32 [S, M], reduce_bias f32 [S], excite f32 [M, S], excite_bias f32 [M]
///   expand          f32 or f16 [M, C], or [M, 3, 3]; absent where nothing is expanded
///   expand_bias     [M]
///
/// Outputs
///   f32 [1, H', W', N]
///   f32 [1, N, H', W'] if `emit_planes`: the same
///
/// Attributes: `expand`, `kernel`, `stride`, `pads` and `shortcut` are those of TiledMBConv.
///   emit_planes  there is a second output
///
/// Weights, all but x, are constants: those of the convolutions are packed at the first inference.
class TiledMBConvF32 : public ov::op::Op {
  public:
    OPENVINO_OP("TiledMBConvF32", "mammofm")

    TiledMBConvF32() = default;
    TiledMBConvF32(const ov::OutputVector& inputs, TiledMBConvF32Attributes attributes);

    void validate_and_infer_types() override;
    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override;
    bool visit_attributes(ov::AttributeVisitor& visitor) override;
    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override;
    bool has_evaluate() const override;

  private:
    void check_weights() const;
    std::shared_ptr<const MbConvF32> packed(const ov::TensorVector& inputs) const;

    MbConvForm m_form;
    bool m_emit_planes = false;

    mutable std::mutex m_mutex;
    mutable std::shared_ptr<const MbConvF32> m_packed;
};

}  // namespace mammofm
