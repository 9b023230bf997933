// What the dispatcher and the kernels of every instruction set share. Plain data only: an inline
// function here would be compiled with several sets of flags, and the linker would keep any one.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mammofm {

/// Channels are handled 16 at a time, and expanded 48 at a time (a divisor of every width of an
/// EfficientNet's expanded tensors): 8 pixels x 48 channels are 24 registers of sums.
constexpr std::int64_t kMbLanes = 16;
constexpr std::int64_t kMbVectors = 3;
constexpr std::int64_t kMbChunk = kMbLanes * kMbVectors;
/// Expanded rows lie four by four, as the four bytes that one VNNI instruction sums.
constexpr std::int64_t kMbRows = 4;
/// Pixels whose sums the products 1x1 hold at a time.
constexpr std::int64_t kMbPixels = 8;
/// Floats behind each channel of a chunk, in this order.
enum MbParameter : std::int64_t {
    kMbExpandScale,  // sum of products -> value
    kMbExpandBias,
    kMbExpandExponentScale,  // sum of products -> -value * log2(e)
    kMbExpandExponentBias,
    kMbMiddleScale,  // value -> byte
    kMbMiddleBias,
    kMbDepthScale,
    kMbDepthBias,
    kMbDepthExponentScale,
    kMbDepthExponentBias,
    kMbParameters
};

/// First pass: some output rows of 48 expanded channels. Everything that is packed is described in
/// tiled_mbconv.cpp, which packs it.
struct MbStrip {
    const std::uint8_t* input;  ///< [in_height, in_width, in_channels]
    std::int64_t in_height, in_width, in_channels;
    std::int64_t height, width;  ///< of the expanded tensor
    /// 0: the input is the expanded tensor, of which this chunk begins at channel `first_channel`
    /// and has `channels`, a multiple of 8; 1: product 1x1; 3: convolution 3x3, stride 2, of one
    /// input channel.
    std::int64_t expand;
    std::int64_t expand_pad;   ///< rows and columns of zeros before a 3x3 input
    std::uint8_t expand_zero;  ///< the byte that stands for 0 in the input
    std::int64_t first_channel, channels;
    std::int64_t vectors;               ///< of 16 channels, that hold them: 1..3
    const std::int8_t* expand_weights;  ///< [depth / 4, 3, 16, 4]
    const float* parameters;            ///< [kMbParameters, 48]
    const std::uint8_t* zeros;          ///< [48], the bytes that stand for 0 in the expanded tensor
    const std::int8_t* depth_weights;   ///< [4, kernel, 2, 3, 16, 4]
    std::int64_t kernel, stride, pad;   ///< pad: rows and columns of zeros before
    std::int64_t out_width, row_begin, row_end;
    float out_scale, out_bias;  ///< value -> byte
    std::uint8_t* output;       ///< [3, out_pixels, 16], from `out_row` on
    std::int64_t out_row, out_pixels;
    /// Where not 0, the mean of every row is rounded to a byte: mean of bytes * scale + bias.
    float mean_scale, mean_bias;
    std::int64_t* sums;     ///< [48], of bytes, or of the means of rows as bytes
    std::uint8_t* scratch;  ///< strip_scratch(...) bytes, aligned to 64
};

/// Second pass: some pixels of all output channels. Pixels are counted from the first of `input`.
struct MbProject {
    const std::uint8_t* input;  ///< [in_vectors, pixels, 16]
    std::int64_t in_vectors, pixels;
    const float* gate_scale;  ///< [in_vectors * 16], byte -> gated byte
    const float* gate_bias;
    const std::int8_t* weights;  ///< panel after panel: [in_vectors * 4, vectors, 16, 4]
    std::int64_t out_vectors, out_channels;  ///< channels: a multiple of 8
    std::int64_t plane;                      ///< pixels of a channel of `float_output`
    const float* scale;                      ///< [out_vectors * 16], sum of products -> value
    const float* bias;
    /// Value -> byte -> value, where there is a shortcut: it is rounded before it is added to it.
    float inner_scale, inner_bias, inner_back_scale, inner_back_bias;
    const std::uint8_t* shortcut;  ///< [pixels, out_channels] or null
    float shortcut_scale, shortcut_bias;
    float out_scale, out_bias;
    std::uint8_t* output;  ///< [pixels, out_channels]
    float* float_output;   ///< [out_channels, plane] or null: values before they are rounded
    std::int64_t pixel_begin, pixel_end;  ///< begin: a multiple of kMbPixels
    std::uint8_t* scratch;  ///< in_vectors * 16 * (pixels, rounded up to kMbPixels), aligned to 64
};

/// The kernels of one instruction set. They trust their arguments.
struct MbConvKernel {
    const char* name;
    std::size_t (*strip_scratch)(const MbStrip& strip);
    void (*strip)(const MbStrip& strip);
    void (*project)(const MbProject& project);
    /// Bytes of channel after channel to pixel after pixel: round(value * scale + bias).
    void (*quantize)(const float* from, std::uint8_t* to, std::int64_t count, float scale,
                     float bias);
    /// to[i] += sum over j of weights[i, j] * from[j].
    void (*dot_rows)(const float* weights, const float* from, float* to, std::int64_t rows,
                     std::int64_t columns);
};

namespace portable {
extern const MbConvKernel mbconv_kernel;
}
namespace avx2 {
extern const MbConvKernel mbconv_kernel;
}
namespace avx512vnni {
extern const MbConvKernel mbconv_kernel;
}

}  // namespace mammofm
