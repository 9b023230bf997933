// The operation TiledMBConv of the domain "mammofm", as OpenVINO sees it.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <openvino/op/op.hpp>
#include <vector>

#include "mbconv_op_common.hpp"

namespace mammofm {

class MbConv;

/// As TiledMBConv describes them.
struct TiledMBConvAttributes {
    MbConvForm form;
    bool emit_float = false;
    std::vector<float> ranges;
};

/// An inverted bottleneck in 8 bits: expand, swish, depthwise, swish, squeeze-excite, project and
/// shortcut, with every tensor rounded where the graph that it stands for has a FakeQuantize.
///
/// Inputs
///   x            u8 [1, H, W, C], or f32 [1, C, H, W], which is rounded first
///   depthwise    i8 [M, K, K], of any shape with as many elements; so are the following
///   project      i8 [N, M]
///   hidden       f32 [6, M]: steps and biases of `expand`, lows and highs of the expanded tensor's
///                bytes, steps and biases of `depthwise`
///   output       f32 [2, N]: steps and biases of `project`
///   reduce       f32 [S, M], reduce_bias [S], excite [M, S], excite_bias [M]
///   expand       i8 [M, C], or [M, 3, 3]; absent where nothing is expanded
///
/// Outputs
///   u8 [1, H', W', N]
///   f32 [1, N, H', W'] if `emit_float`: the same values before they are rounded
///
/// Attributes
///   expand      0: nothing, 1: a product 1x1, 3: a convolution 3x3 with stride 2 of C = 1 channel
///   kernel      of the depthwise convolution: 3 or 5
///   stride      1 or 2
///   pads        zeros before and after, of `expand` (if it is 3) and of the depthwise convolution
///   shortcut    x is added to the projection
///   emit_float  there is a second output
///   ranges      lows and highs that the bytes of these tensors stand for: x, depthwise, means of
///               rows (0, 0: not rounded), gate, gated, projected (read with a shortcut), output
///
/// Weights, all but x, are constants: those of the convolutions are packed at the first inference.
class TiledMBConv : public ov::op::Op {
  public:
    OPENVINO_OP("TiledMBConv", "mammofm")

    TiledMBConv() = default;
    TiledMBConv(const ov::OutputVector& inputs, TiledMBConvAttributes attributes);

    void validate_and_infer_types() override;
    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override;
    bool visit_attributes(ov::AttributeVisitor& visitor) override;
    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override;
    bool has_evaluate() const override;

  private:
    void check_attributes() const;
    void check_weights() const;
    std::shared_ptr<const MbConv> packed(const ov::TensorVector& inputs) const;

    MbConvForm m_form;
    bool m_emit_float = false;
    std::vector<float> m_ranges;

    mutable std::mutex m_mutex;
    mutable std::shared_ptr<const MbConv> m_packed;
};

}  // namespace mammofm
