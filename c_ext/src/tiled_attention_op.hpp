// The operation TiledAttention of the domain "mammofm", as OpenVINO sees it.
#pragma once

#include <cstdint>
#include <memory>
#include <openvino/op/op.hpp>
#include <string>

namespace mammofm {

/// softmax(query key^T * scale + mask) value, in blocks, without an [N, M] intermediate.
///
/// Inputs
///   query     f32 [B, H, N, D]
///   key       f32 [B, H, M, D]
///   value     f32 [B, H, M, D]
///   key_mask  boolean or u8 [B, M], optional; zero: no query sees this key
///
/// Output
///   f32 [B, H, N, D]
///
/// Attributes
///   causal  a query sees no key after its own position
///   window  the largest |position - key| that a query sees; -1: unlimited
///   scale   multiplies the products of query and key; 0: 1 / sqrt(D)
///   precision  "float32", or "int8": products of rounded numbers where this CPU gains by it and
///              the queries are many (attention_precision.hpp); the default is float32
///
/// Query i stands at position i + (M - N): the last query is beside the last key. Masks combine;
/// what masked keys and values hold does not matter, not even NaN. A query that sees no key gets
/// zeros. A NaN or an infinity in what a query does see has the effect that it has in torch's
/// softmax.
///
/// D is 1 to 256; 32 to 128 is what the kernels are tuned and tested for.
class TiledAttention : public ov::op::Op {
  public:
    OPENVINO_OP("TiledAttention", "mammofm")

    TiledAttention() = default;
    TiledAttention(const ov::OutputVector& inputs, bool causal, std::int64_t window, float scale,
                   std::string precision);

    void validate_and_infer_types() override;
    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override;
    bool visit_attributes(ov::AttributeVisitor& visitor) override;
    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override;
    bool has_evaluate() const override;

    const std::string& precision() const { return m_precision; }

  private:
    bool m_causal = false;
    std::int64_t m_window = -1;
    float m_scale = 0.0f;
    std::string m_precision = "float32";
};

}  // namespace mammofm
