// An inverted bottleneck in 8 bits: weights packed once, work spread over OpenVINO's threads.
#pragma once

#include <cstdint>
#include <vector>

#include "mbconv_work.hpp"

namespace mammofm {

struct MbConvKernel;

/// The kernels of this process: those of `instruction_set.hpp`, with VNNI where the CPU has it.
/// Call only when an instruction set was selected.
const MbConvKernel& selected_mbconv_kernel();

/// What a byte stands for: low + byte * (high - low) / 255.
struct MbRange {
    float low, high;
    float step() const { return high > low ? (high - low) / 255.0f : 0.0f; }
    float per_step() const { return high > low ? 255.0f / (high - low) : 0.0f; }
};

/// Ranges of the bytes of all tensors but the expanded one, which has one per channel.
struct MbConvRanges {
    MbRange input, depthwise, row_mean, gate, gated, inner, output;
    bool rounds_row_means;
};

/// The weights as a graph holds them.
struct MbConvWeights {
    const std::int8_t* expand;     ///< [hidden, in_channels] or [hidden, 3, 3], or null
    const std::int8_t* depthwise;  ///< [hidden, kernel, kernel]
    const std::int8_t* project;    ///< [out_channels, hidden]
    const float*
        hidden;  ///< [6, hidden]: expand step and bias, low and high, depthwise step and bias
    const float* output;  ///< [2, out_channels]: step and bias of `project`
};

/// Bytes that a block holds between its passes at most; what is more is computed twice. A block of
/// B5 at 1520x912 has 27 million, one at 4096x3328 up to 205 million.
constexpr std::int64_t kMbMostHidden = 64 << 20;

/// A block, ready to run: holds all that it needs of the weights but those of the gate.
class MbConv {
  public:
    MbConv(const MbConvShape& shape, const MbConvRanges& ranges, const MbConvWeights& weights,
           std::int64_t most_hidden = kMbMostHidden);

    /// Exactly one of `bytes` [in_height, in_width, in_channels] and `floats` [in_channels,
    /// in_height, in_width] is given. `output`: [out_height, out_width, out_channels];
    /// `float_output`: [out_channels, out_height, out_width], before rounding, or null.
    /// The same input gives the same bytes for any number of threads.
    void run(const MbConvGate& weights, const std::uint8_t* bytes, const float* floats,
             std::uint8_t* output, float* float_output) const;

  private:
    /// Rows of the output that are computed together.
    struct Rows {
        std::int64_t begin, end;
    };

    void pack_expand(const MbConvWeights& weights);
    void pack_depthwise(const MbConvWeights& weights);
    void pack_project(const MbConvWeights& weights);
    void quantize(const float* floats, std::uint8_t* bytes) const;
    std::int64_t padded_pixels(std::int64_t rows) const;
    void first_pass(Rows rows, const std::uint8_t* input, std::uint8_t* hidden,
                    std::int64_t* sums) const;
    void set_gate(const MbConvGate& weights, const std::int64_t* sums, float* gate) const;
    void second_pass(Rows rows, const std::uint8_t* hidden, const float* gate,
                     const std::uint8_t* shortcut, std::uint8_t* output, float* float_output) const;

    MbConvShape m_shape;
    MbConvRanges m_ranges;
    const MbConvKernel& m_kernel;
    std::int64_t m_most_hidden;
    std::int64_t m_chunks, m_padded;  // of 48 channels; channels, filled up to whole chunks
    MbBuffer m_expand, m_depthwise, m_project;
    std::int8_t *m_expand_weights{}, *m_depth_weights{}, *m_project_weights{};
    std::vector<float> m_parameters;     // [chunks, kMbParameters, 48]
    std::vector<std::uint8_t> m_zeros;   // [padded]
    std::vector<float> m_output_values;  // [2, out_vectors * 16]
};

}  // namespace mammofm
