// What the dispatcher and the float32 kernels of every instruction set share. Plain data only: an
// inline function here would be compiled with several sets of flags, and the linker would keep any
// one.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mammofm {

/// Channels are expanded 48 at a time, a divisor of every width of an EfficientNet's expanded
/// tensors; outputs are packed 16 by 16.
constexpr std::int64_t kMbF32Lanes = 16;
constexpr std::int64_t kMbF32Chunk = 48;
constexpr std::int64_t kMbF32Vectors = kMbF32Chunk / kMbF32Lanes;

/// First pass: some output rows of 48 expanded channels.
struct MbF32Strip {
    const float* input;  ///< [in_height, in_width, in_channels]
    std::int64_t in_height, in_width, in_channels;
    std::int64_t height, width;  ///< of the expanded tensor
    /// 0: the input is the expanded tensor, of which this chunk begins at channel `first_channel`;
    /// 1: product 1x1; 3: convolution 3x3, stride 2, of one input channel.
    std::int64_t expand;
    std::int64_t expand_pad;  ///< rows and columns of zeros before a 3x3 input
    std::int64_t first_channel, channels;
    const float* expand_weights;       ///< [depth, 48]
    const float* expand_bias;          ///< [48]
    const float* depth_weights;        ///< [kernel, kernel, 48]
    const float* depth_bias;           ///< [48]
    std::int64_t kernel, stride, pad;  ///< pad: rows and columns of zeros before
    std::int64_t out_width, row_begin, row_end;
    float* output;    ///< [out_height, out_width, 48]
    float* row_sums;  ///< [out_height, 48]
    float* scratch;   ///< strip_scratch(...) floats, aligned to 64 bytes
};

/// Second pass: some pixels of all output channels.
struct MbF32Project {
    const float* input;  ///< [chunks, pixels, 48]
    std::int64_t channels, pixels;
    const float* weights;  ///< panel after panel of up to 3 vectors: [channels, vectors, 16]
    const float* bias;     ///< [out_vectors * 16]
    std::int64_t out_vectors, out_channels;  ///< channels: a multiple of 8
    const float* shortcut;                   ///< [pixels, out_channels] or null
    float* output;                           ///< [pixels, out_channels]
    float* planes;                           ///< [out_channels, pixels] or null: the same values
    std::int64_t pixel_begin, pixel_end;
    float* scratch;  ///< [pixel_end - pixel_begin, out_vectors * 16], aligned to 64 bytes
};

/// The kernels of one instruction set. They trust their arguments.
struct MbConvF32Kernel {
    std::size_t (*strip_scratch)(const MbF32Strip& strip);
    void (*strip)(const MbF32Strip& strip);
    void (*project)(const MbF32Project& project);
    /// to[i, j] = from[i, j] * factors[i].
    void (*scale_rows)(const float* from, const float* factors, float* to, std::int64_t rows,
                       std::int64_t columns);
    /// to[i] += sum over j of weights[i, j] * from[j].
    void (*dot_rows)(const float* weights, const float* from, float* to, std::int64_t rows,
                     std::int64_t columns);
};

namespace portable {
extern const MbConvF32Kernel mbconv_f32_kernel;
}
namespace avx2 {
extern const MbConvF32Kernel mbconv_f32_kernel;
}
namespace avx512 {
extern const MbConvF32Kernel mbconv_f32_kernel;
}
namespace avx512_vnni {
extern const MbConvF32Kernel mbconv_f32_kernel;
}

}  // namespace mammofm
