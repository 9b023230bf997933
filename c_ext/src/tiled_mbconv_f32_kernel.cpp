// Both passes of an inverted bottleneck in float32, for one instruction set.
//
// First pass. Of 48 expanded channels row after row is computed and kept in a ring of as many rows
// as the depthwise kernel is high; they stay in L2. The depthwise result is written, and summed by
// rows for the pooling.
//
// Second pass. Some pixels of all expanded channels are multiplied by the weights of the
// projection, which carry the gate already, in blocks of channels whose weights stay in L2.

#include "tiled_mbconv_f32_kernel.hpp"

#include <algorithm>
#include <cstring>

#include MAMMOFM_VEC_HEADER

#include "dot_rows.hpp"
#include "exp2.hpp"
#include "unrolled.hpp"

namespace mammofm::MAMMOFM_ISA {
namespace {

using std::int64_t;

constexpr int kWidth = Vec::kLanes;
constexpr int kPixels = kGroup;        // whose sums are held at a time
constexpr int kPanel = kPanelVectors;  // vectors of them
constexpr int64_t kChunk = kMbF32Chunk;
constexpr int64_t kPatch = 9;  // a 3x3 window
constexpr int64_t kBlock = 8;  // chunks of a block of the second pass

/// x * sigmoid(x), NaN for NaN.
INLINED inline Vec swish(Vec x) {
    constexpr float kLog2E = 1.44269504088896341f;
    const Vec power = exp2(min(Vec::broadcast(126.0f), x * Vec::broadcast(-kLog2E)));
    return x * reciprocal(power + Vec::broadcast(1.0f));
}

/// sums[p * kVecs + v] += over k of at[p][k] * weights[k, v].
template <int kVecs>
INLINED inline void add_products(const float* const (&at)[kPixels], int64_t depth,
                                 const float* weights, int64_t stride,
                                 Vec (&sums)[kPixels * kVecs]) {
    for (int64_t k = 0; k < depth; ++k, weights += stride) {
        Vec w[kVecs];
        each<kVecs>([&](auto v) INLINED { w[v] = Vec::load(weights + v * kWidth); });
        each<kPixels>([&](auto p) INLINED {
            const Vec input = Vec::broadcast(at[p][k]);
            each<kVecs>([&](auto v) INLINED {
                sums[p * kVecs + v] = fma(input, w[v], sums[p * kVecs + v]);
            });
        });
    }
}

// ---- first pass: expand

/// Columns of a row in the ring: what the kernels read, those of the last group of outputs
/// included.
int64_t ring_columns(const MbF32Strip& strip) {
    const int64_t outputs = (strip.out_width + kPixels - 1) / kPixels * kPixels;
    return std::max(strip.pad + strip.width, (outputs - 1) * strip.stride + strip.kernel);
}

/// The ring, a row of zeros, and patches.
std::size_t strip_scratch(const MbF32Strip& strip) {
    const int64_t patches = strip.expand == 3 ? strip.width * kPatch : 0;
    return static_cast<std::size_t>((strip.kernel + 1) * ring_columns(strip) * kChunk + patches);
}

/// One row of [width, depth] times the weights of 48 channels.
void expand_row(const MbF32Strip& strip, const float* row, int64_t depth, float* to) {
    constexpr int kStep = kPanel * kWidth;
    for (int64_t x = 0; x < strip.width; x += kPixels) {
        const int64_t valid = std::min<int64_t>(kPixels, strip.width - x);
        const float* at[kPixels];
        for (int64_t p = 0; p < kPixels; ++p)
            at[p] = row + (x + std::min(p, valid - 1)) * depth;
        for (int64_t lane = 0; lane < kChunk; lane += kStep) {
            Vec sums[kPixels * kPanel];
            each<kPixels * kPanel>([&](auto i) INLINED {
                sums[i] = Vec::load(strip.expand_bias + lane + i % kPanel * kWidth);
            });
            add_products<kPanel>(at, depth, strip.expand_weights + lane, kChunk, sums);
            each<kPixels>([&](auto p) INLINED {
                if (p >= valid)
                    return;
                each<kPanel>([&](auto v) INLINED {
                    swish(sums[p * kPanel + v]).store(to + (x + p) * kChunk + lane + v * kWidth);
                });
            });
        }
    }
}

/// Where nothing is expanded, the channels of this chunk.
void copy_row(const MbF32Strip& strip, const float* row, float* to) {
    for (int64_t x = 0; x < strip.width; ++x)
        std::memcpy(to + x * kChunk, row + x * strip.in_channels + strip.first_channel,
                    static_cast<std::size_t>(strip.channels) * sizeof(float));
}

/// The windows of a 3x3 convolution with stride 2.
void gather_patches(const MbF32Strip& strip, int64_t row, float* to) {
    for (int64_t x = 0; x < strip.width; ++x, to += kPatch) {
        for (int64_t i = 0; i < 3; ++i) {
            const int64_t y = 2 * row - strip.expand_pad + i;
            const float* line = strip.input + y * strip.in_width;
            for (int64_t j = 0; j < 3; ++j) {
                const int64_t column = 2 * x - strip.expand_pad + j;
                const bool inside =
                    y >= 0 && y < strip.in_height && column >= 0 && column < strip.in_width;
                to[3 * i + j] = inside ? line[column] : 0.0f;
            }
        }
    }
}

void make_row(const MbF32Strip& strip, int64_t row, float* ring, float* patches) {
    float* to = ring + strip.pad * kChunk;
    if (strip.expand == 3) {
        gather_patches(strip, row, patches);
        expand_row(strip, patches, kPatch, to);
        return;
    }
    const float* from = strip.input + row * strip.width * strip.in_channels;
    if (strip.expand == 0)
        copy_row(strip, from, to);
    else
        expand_row(strip, from, strip.in_channels, to);
}

// ---- first pass: depthwise

/// One output row of one vector of channels, from column `lane` of the rows on; returns its sum.
template <int kKernel, int kStride>
Vec depth_row(const MbF32Strip& strip, const float* const (&rows)[kKernel], int64_t lane,
              float* to) {
    Vec total = Vec::broadcast(0.0f);
    const Vec bias = Vec::load(strip.depth_bias + lane);
    for (int64_t x = 0; x < strip.out_width; x += kPixels) {
        Vec sums[kPixels];
        each<kPixels>([&](auto p) INLINED { sums[p] = bias; });
        const float* weights = strip.depth_weights + lane;
        for (int64_t y = 0; y < kKernel; ++y, weights += kKernel * kChunk) {
            const float* from = rows[y] + x * kStride * kChunk + lane;
            Vec w[kKernel];
            each<kKernel>([&](auto k) INLINED { w[k] = Vec::load(weights + k * kChunk); });
            each<(kPixels - 1) * kStride + kKernel>([&](auto c) INLINED {
                const Vec column = Vec::load(from + c * kChunk);
                each<kPixels>([&](auto p) INLINED {
                    constexpr int k = c - p * kStride;
                    if constexpr (k >= 0 && k < kKernel)
                        sums[p] = fma(column, w[k], sums[p]);
                });
            });
        }
        const int64_t valid = std::min<int64_t>(kPixels, strip.out_width - x);
        each<kPixels>([&](auto p) INLINED {
            if (p >= valid)
                return;
            const Vec value = swish(sums[p]);
            value.store(to + (x + p) * kChunk + lane);
            total = total + value;
        });
    }
    return total;
}

template <int kKernel, int kStride>
void strip_of(const MbF32Strip& strip) {
    const int64_t row_size = ring_columns(strip) * kChunk;
    const float* zeros = strip.scratch + kKernel * row_size;
    float* patches = strip.scratch + (kKernel + 1) * row_size;
    std::fill_n(strip.scratch, (kKernel + 1) * row_size, 0.0f);
    int64_t made = std::max<int64_t>(strip.row_begin * kStride - strip.pad, 0) - 1;
    for (int64_t row = strip.row_begin; row < strip.row_end; ++row) {
        const int64_t top = row * kStride - strip.pad;
        // Rows that no output of this strip reads are passed over.
        made = std::max(made, std::max<int64_t>(top, 0) - 1);
        for (const int64_t last = std::min(top + kKernel, strip.height) - 1; made < last;) {
            ++made;
            make_row(strip, made, strip.scratch + made % kKernel * row_size, patches);
        }
        const float* rows[kKernel];
        for (int64_t y = 0; y < kKernel; ++y) {
            const bool exists = top + y >= 0 && top + y < strip.height;
            rows[y] = exists ? strip.scratch + (top + y) % kKernel * row_size : zeros;
        }
        float* to = strip.output + row * strip.out_width * kChunk;
        for (int64_t lane = 0; lane < kChunk; lane += kWidth)
            depth_row<kKernel, kStride>(strip, rows, lane, to)
                .store(strip.row_sums + row * kChunk + lane);
    }
}

void strip(const MbF32Strip& strip) {
    if (strip.kernel == 3)
        strip.stride == 1 ? strip_of<3, 1>(strip) : strip_of<3, 2>(strip);
    else
        strip.stride == 1 ? strip_of<5, 1>(strip) : strip_of<5, 2>(strip);
}

// ---- second pass

/// Some pixels x chunks first..end - 1 x kVecs vectors of outputs, added to the scratch memory.
template <int kVecs>
void project_pixels(const MbF32Project& project, const float* weights, int64_t width, int64_t lane,
                    int64_t place, int64_t first, int64_t end) {
    const int64_t valid =
        std::min<int64_t>(kPixels, project.pixel_end - project.pixel_begin - place);
    const int64_t stride = project.out_vectors * kMbF32Lanes;
    float* to = project.scratch + place * stride + lane;
    Vec sums[kPixels * kVecs];
    each<kPixels>([&](auto p) INLINED {
        const float* from =
            first == 0 ? project.bias + lane : to + std::min<int64_t>(p, valid - 1) * stride;
        each<kVecs>([&](auto v) INLINED { sums[p * kVecs + v] = Vec::load(from + v * kWidth); });
    });
    for (int64_t chunk = first; chunk < end; ++chunk) {
        const float* pixels =
            project.input + (chunk * project.pixels + project.pixel_begin + place) * kChunk;
        const float* at[kPixels];
        for (int64_t p = 0; p < kPixels; ++p)
            at[p] = pixels + std::min(p, valid - 1) * kChunk;
        const int64_t depth = std::min(kChunk, project.channels - chunk * kChunk);
        add_products<kVecs>(at, depth, weights + chunk * kChunk * width, width, sums);
    }
    each<kPixels>([&](auto p) INLINED {
        if (p >= valid)
            return;
        each<kVecs>([&](auto v)
                        INLINED { sums[p * kVecs + v].store(to + p * stride + v * kWidth); });
    });
}

/// The same for a panel of `width` outputs.
void project_panel(const MbF32Project& project, const float* weights, int64_t width, int64_t lane,
                   int64_t place, int64_t first, int64_t end) {
    if constexpr (kWidth == kMbF32Lanes) {
        if (width == 3 * kWidth)
            project_pixels<3>(project, weights, width, lane, place, first, end);
        else if (width == 2 * kWidth)
            project_pixels<2>(project, weights, width, lane, place, first, end);
        else
            project_pixels<1>(project, weights, width, lane, place, first, end);
    } else {
        for (int64_t part = 0; part < width; part += kPanel * kWidth)
            project_pixels<kPanel>(project, weights + part, width, lane + part, place, first, end);
    }
}

/// Add the shortcut, and write.
void finish_projected(const MbF32Project& project) {
    const int64_t stride = project.out_vectors * kMbF32Lanes, channels = project.out_channels;
    const int64_t count = project.pixel_end - project.pixel_begin;
    for (int64_t p = 0; p < count; ++p) {
        const int64_t at = (project.pixel_begin + p) * channels;
        float* values = project.scratch + p * stride;
        if (project.shortcut != nullptr) {
            for (int64_t c = 0; c < channels; ++c)
                values[c] += project.shortcut[at + c];
        }
        std::memcpy(project.output + at, values,
                    static_cast<std::size_t>(channels) * sizeof(float));
    }
    if (project.planes == nullptr)
        return;
    for (int64_t c = 0; c < channels; ++c) {
        float* to = project.planes + c * project.pixels + project.pixel_begin;
        for (int64_t p = 0; p < count; ++p)
            to[p] = project.scratch[p * stride + c];
    }
}

void project(const MbF32Project& project) {
    const int64_t count = project.pixel_end - project.pixel_begin;
    const int64_t chunks = (project.channels + kChunk - 1) / kChunk;
    const int64_t panels = (project.out_vectors + kMbF32Vectors - 1) / kMbF32Vectors;
    for (int64_t first = 0; first < chunks; first += kBlock) {
        const int64_t end = std::min(first + kBlock, chunks);
        // Panels of 3 vectors, or of 2 where that leaves no single one; as they are packed.
        const float* weights = project.weights;
        for (int64_t panel = 0, vector = 0; panel < panels; ++panel) {
            const int64_t left = panels - panel;
            const int64_t size = (project.out_vectors - vector + left - 1) / left;
            const int64_t width = size * kMbF32Lanes;
            for (int64_t place = 0; place < count; place += kPixels)
                project_panel(project, weights, width, vector * kMbF32Lanes, place, first, end);
            weights += project.channels * width;
            vector += size;
        }
    }
    finish_projected(project);
}

// ---- small things

void scale_rows(const float* from, const float* factors, float* to, int64_t rows, int64_t columns) {
    for (int64_t i = 0; i < rows; ++i) {
        const Vec factor = Vec::broadcast(factors[i]);
        for (int64_t j = 0; j < columns; j += kWidth)
            (Vec::load(from + i * columns + j) * factor).store(to + i * columns + j);
    }
}

}  // namespace

const MbConvF32Kernel mbconv_f32_kernel = {strip_scratch, strip, project, scale_rows, dot_rows};

}  // namespace mammofm::MAMMOFM_ISA
