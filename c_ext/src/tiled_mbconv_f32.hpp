// An inverted bottleneck in float32: weights packed once, work spread over OpenVINO's threads.
#pragma once

#include <cstdint>
#include <vector>

#include "mbconv_work.hpp"

namespace mammofm {

struct MbConvF32Kernel;

/// The weights as a graph holds them, in float32.
struct MbConvF32Weights {
    const float* expand;     ///< [hidden, in_channels] or [hidden, 3, 3], or null
    const float* depthwise;  ///< [hidden, kernel, kernel]
    const float* project;    ///< [out_channels, hidden]
    const float* expand_bias;
    const float* depthwise_bias;
    const float* project_bias;
};

/// A block, ready to run: holds all that it needs of the weights but those of the gate.
class MbConvF32 {
  public:
    MbConvF32(const MbConvShape& shape, const MbConvF32Weights& weights);

    /// `input`: [in_height, in_width, in_channels]. `output`: [out_height, out_width,
    /// out_channels]; `planes`: the same as [out_channels, out_height, out_width], or null.
    /// The same input gives the same numbers for any number of threads.
    void run(const MbConvGate& gate, const float* input, float* output, float* planes) const;

  private:
    void pack_expand(const MbConvF32Weights& weights);
    void pack_depthwise(const MbConvF32Weights& weights);
    void pack_project(const MbConvF32Weights& weights);
    void first_pass(const float* input, float* hidden, float* means) const;
    void gate_projection(const float* gate, float* weights) const;
    void second_pass(const float* hidden, const float* weights, const float* shortcut,
                     float* output, float* planes) const;

    MbConvShape m_shape;
    const MbConvF32Kernel& m_kernel;
    std::int64_t m_chunks, m_vectors;
    MbBuffer m_expand, m_depthwise, m_project;
    float* m_expand_weights = nullptr;
    float* m_depth_weights = nullptr;
    float* m_project_weights = nullptr;
    std::vector<float> m_expand_bias, m_depth_bias;  // [chunks, 48]
    std::vector<float> m_project_bias;               // [vectors * 16]
};

}  // namespace mammofm
