// Both passes of an inverted bottleneck in 8 bits, for one instruction set.
//
// First pass. Of 48 expanded channels four rows at a time are computed and kept, a "band": for each
// column and 16 channels, the four rows' bytes of each channel side by side. Two bands are held at
// once; they stay in L2. A depthwise output needs one or two bands per column of the kernel, and
// one dot4 each: its weights are laid out for each of the four rows at which a kernel may begin.
//
// Second pass. Some pixels of all expanded channels are gated into scratch memory, and multiplied
// by the weights of 48 output channels after another.

#include "tiled_mbconv_kernel.hpp"

#include <algorithm>
#include <cstring>

#include "dot_rows.hpp"
#include "unrolled.hpp"

#include MAMMOFM_LANES_HEADER

namespace mammofm::MAMMOFM_ISA {
namespace {

using std::int64_t;
using std::int8_t;
using std::uint8_t;

constexpr int kVectors = static_cast<int>(kMbVectors);
constexpr int64_t kCell = kMbChunk * kMbRows;  // bytes of one column of a band
constexpr int64_t kPatch = 12;                 // 9 bytes of a 3x3 window, 3 that meet zeros
constexpr int kPlaces = 4;                     // depthwise outputs at a time

/// Columns of a band: what the kernels read, those of the last 4 outputs included.
int64_t band_columns(const MbStrip& strip) {
    const int64_t outputs = (strip.out_width + kPlaces - 1) / kPlaces * kPlaces;
    return std::max(strip.pad + strip.width, (outputs - 1) * strip.stride + strip.kernel);
}

int64_t band_bytes(const MbStrip& strip) {
    return band_columns(strip) * kCell;
}

std::size_t strip_scratch(const MbStrip& strip) {
    const int64_t patches = strip.expand == 3 ? kMbRows * strip.width * kPatch : 0;
    return static_cast<std::size_t>(2 * band_bytes(strip) + (patches + 63) / 64 * 64);
}

// ---- first pass: expand

/// Four rows of the expanded tensor: which exist, and where the products' inputs lie.
struct Band {
    const uint8_t* rows[kMbRows];  // of inputs, [width, depth]
    Ints exists;                   // in each channel, 0xFF in the byte of each row that is there
    int64_t depth;
};

/// The bytes that stand for 0, in all four rows.
inline Ints zeros_of(const MbStrip& strip, int vector) {
    const Ints zero = Ints::load_16_bytes(strip.zeros + vector * kMbLanes);
    const Ints two = zero | shift_left<8>(zero);
    return two | shift_left<16>(two);
}

void fill_columns(const MbStrip& strip, uint8_t* band, int64_t begin, int64_t end) {
    for (int v = 0; v < kVectors; ++v) {
        const Ints zero = zeros_of(strip, v);
        for (int64_t c = begin; c < end; ++c)
            zero.store(band + c * kCell + v * 64);
    }
}

/// Sums of four rows at one column -> bytes, side by side.
INLINED inline void finish_expanded(const MbStrip& strip, const Band& band, int vector,
                                    const Ints (&sums)[kMbRows], uint8_t* to) {
    const auto parameter = [&](MbParameter which) {
        return Floats::load(strip.parameters + which * kMbChunk + vector * kMbLanes);
    };
    const Floats scale = parameter(kMbExpandScale), bias = parameter(kMbExpandBias);
    const Floats exponent_scale = parameter(kMbExpandExponentScale);
    const Floats exponent_bias = parameter(kMbExpandExponentBias);
    const Floats to_byte = parameter(kMbMiddleScale), offset = parameter(kMbMiddleBias);
    Floats bytes[kMbRows];
    each<kMbRows>([&](auto r) INLINED {
        const Floats sum = to_floats(sums[r]);
        const Floats value =
            times_sigmoid(fma(sum, scale, bias), fma(sum, exponent_scale, exponent_bias));
        bytes[r] = fma(value, to_byte, offset);
    });
    const Ints packed = by_channel(pack(bytes[0], bytes[1], bytes[2], bytes[3]));
    select_bits(band.exists, packed, zeros_of(strip, vector)).store(to);
}

/// Four rows at two columns times the weights of 48 channels.
void expand_band(const MbStrip& strip, const Band& band, uint8_t* to) {
    const int64_t groups = band.depth / 4;
    for (int64_t x = 0; x < strip.width; x += 2) {
        const int64_t second = x + 1 < strip.width ? band.depth : 0;
        const uint8_t* at[2 * kMbRows];
        for (int r = 0; r < kMbRows; ++r) {
            at[r] = band.rows[r] + x * band.depth;
            at[kMbRows + r] = at[r] + second;
        }
        Ints sums[kVectors][2][kMbRows];
        each<kVectors * 2 * kMbRows>([&](auto i)
                                         INLINED { sums[i / 8][i / 4 % 2][i % 4] = Ints::zero(); });
        const int8_t* weights = strip.expand_weights;
        for (int64_t k = 0; k < groups; ++k, weights += kVectors * 64) {
            Ints w[kVectors];
            each<kVectors>([&](auto v) INLINED { w[v] = Ints::load(weights + v * 64); });
            each<2 * kMbRows>([&](auto p) INLINED {
                const Ints input = Ints::repeat_4_bytes(at[p] + 4 * k);
                each<kVectors>([&](auto v)
                                   INLINED { dot4_to(sums[v][p / 4][p % 4], input, w[v]); });
            });
        }
        uint8_t* cell = to + x * kCell;
        each<kVectors>([&](auto v)
                           INLINED { finish_expanded(strip, band, v, sums[v][0], cell + v * 64); });
        if (second == 0)
            continue;
        each<kVectors>([&](auto v) INLINED {
            finish_expanded(strip, band, v, sums[v][1], cell + kCell + v * 64);
        });
    }
}

/// 16 bytes; or 8 and zeros, where no more than 8 belong to the tensor.
INLINED inline Ints load_channels(const uint8_t* from, int64_t count) {
    if (count >= kMbLanes)
        return Ints::load_16_bytes(from);
    uint8_t lanes[kMbLanes] = {};
    std::memcpy(lanes, from, kMbLanes / 2);
    return Ints::load_16_bytes(lanes);
}

/// Where nothing is expanded, the input's rows side by side.
void copy_band(const MbStrip& strip, const Band& band, uint8_t* to) {
    for (int64_t x = 0; x < strip.width; ++x) {
        for (int v = 0; v < strip.vectors; ++v) {
            const int64_t channel = v * kMbLanes, left = strip.channels - channel;
            const int64_t at = x * strip.in_channels + strip.first_channel + channel;
            const Ints low = load_channels(band.rows[0] + at, left) |
                             shift_left<8>(load_channels(band.rows[1] + at, left));
            const Ints high = load_channels(band.rows[2] + at, left) |
                              shift_left<8>(load_channels(band.rows[3] + at, left));
            const Ints bytes = low | shift_left<16>(high);
            select_bits(band.exists, bytes, zeros_of(strip, v)).store(to + x * kCell + v * 64);
        }
    }
}

/// The windows of a 3x3 convolution with stride 2 as rows of 12 bytes.
void gather_patches(const MbStrip& strip, int64_t row, uint8_t* to) {
    for (int64_t x = 0; x < strip.width; ++x, to += kPatch) {
        for (int64_t i = 0; i < 3; ++i) {
            const int64_t y = 2 * row - strip.expand_pad + i;
            const uint8_t* line = strip.input + y * strip.in_width;
            for (int64_t j = 0; j < 3; ++j) {
                const int64_t column = 2 * x - strip.expand_pad + j;
                const bool inside =
                    y >= 0 && y < strip.in_height && column >= 0 && column < strip.in_width;
                to[3 * i + j] = inside ? line[column] : strip.expand_zero;
            }
        }
        std::memset(to + 9, 0, 3);
    }
}

/// Expanded rows 4 * index to 4 * index + 3; those outside the tensor are zeros.
void make_band(const MbStrip& strip, int64_t index, uint8_t* band, uint8_t* patches) {
    const int64_t first = index * kMbRows;
    if (first + kMbRows <= 0 || first >= strip.height) {
        fill_columns(strip, band, strip.pad, strip.pad + strip.width);
        return;
    }
    Band rows{};
    std::uint32_t exists = 0;
    rows.depth = strip.expand == 3 ? kPatch : strip.in_channels;
    for (int64_t r = 0; r < kMbRows; ++r) {
        const int64_t y = first + r;
        if (y >= 0 && y < strip.height)
            exists |= 0xFFu << (8 * r);
        const int64_t inside = std::clamp<int64_t>(y, 0, strip.height - 1);
        if (strip.expand == 3) {
            uint8_t* to = patches + r * strip.width * kPatch;
            gather_patches(strip, inside, to);
            rows.rows[r] = to;
        } else {
            rows.rows[r] = strip.input + inside * strip.width * strip.in_channels;
        }
    }
    rows.exists = Ints::repeat(exists);
    uint8_t* to = band + strip.pad * kCell;
    if (strip.expand == 0)
        copy_band(strip, rows, to);
    else
        expand_band(strip, rows, to);
}

// ---- first pass: depthwise

/// Sums over the columns of one band for 4 outputs side by side.
template <int kKernel, int kStride>
INLINED inline void add_columns(const uint8_t* from, const Ints (&weights)[kKernel],
                                Ints (&sums)[kPlaces]) {
    each<(kPlaces - 1) * kStride + kKernel>([&](auto c) INLINED {
        const Ints column = Ints::load(from + c * kCell);
        each<kPlaces>([&](auto p) INLINED {
            constexpr int k = c - p * kStride;
            if constexpr (k >= 0 && k < kKernel)
                dot4_to(sums[p], column, weights[k]);
        });
    });
}

struct DepthRow {
    const uint8_t* bands[2];  // the second is null where the kernel ends in the first
    const int8_t* weights;    // [kernel, 2, 3, 16, 4]
    uint8_t* to;              // [out_width, 16], of the first 16 channels
};

/// One output row of 16 channels; returns the sum of its bytes.
template <int kKernel, int kStride, bool kTwoBands>
Ints depth_row(const MbStrip& strip, const DepthRow& row, int vector) {
    const auto parameter = [&](MbParameter which) {
        return Floats::load(strip.parameters + which * kMbChunk + vector * kMbLanes);
    };
    const Floats scale = parameter(kMbDepthScale), bias = parameter(kMbDepthBias);
    const Floats exponent_scale = parameter(kMbDepthExponentScale);
    const Floats exponent_bias = parameter(kMbDepthExponentBias);
    const Floats to_byte = Floats::repeat(strip.out_scale), offset = Floats::repeat(strip.out_bias);
    Ints weights[2][kKernel];
    each<kKernel>([&](auto k) INLINED {
        const int8_t* from = row.weights + (k * 2 * kVectors + vector) * 64;
        weights[0][k] = Ints::load(from);
        weights[1][k] = Ints::load(from + kVectors * 64);
    });
    uint8_t* to = row.to + vector * strip.out_pixels * kMbLanes;
    Ints total = Ints::zero();
    for (int64_t x = 0; x < strip.out_width; x += kPlaces) {
        const int64_t at = x * kStride * kCell + vector * 64;
        Ints first[kPlaces], second[kPlaces];
        each<kPlaces>([&](auto p) INLINED { first[p] = second[p] = Ints::zero(); });
        add_columns<kKernel, kStride>(row.bands[0] + at, weights[0], first);
        if (kTwoBands)
            add_columns<kKernel, kStride>(row.bands[1] + at, weights[1], second);
        Floats bytes[kPlaces];
        each<kPlaces>([&](auto p) INLINED {
            const Floats sum = to_floats(kTwoBands ? first[p] + second[p] : first[p]);
            const Floats value =
                times_sigmoid(fma(sum, scale, bias), fma(sum, exponent_scale, exponent_bias));
            bytes[p] = fma(value, to_byte, offset);
        });
        const Bytes packed = pack(bytes[0], bytes[1], bytes[2], bytes[3]);
        const Ints ones = Ints::repeat(0x01010101u);
        const int64_t left = strip.out_width - x;
        if (left >= kPlaces) {
            by_place(packed).store(to + x * kMbLanes);
            dot4_to(total, by_channel(packed), ones);
        } else {
            const Ints valid = Ints::repeat((1u << (8 * left)) - 1);
            dot4_to(total, by_channel(packed) & valid, ones);
            uint8_t places[64];
            by_place(packed).store(places);
            std::memcpy(to + x * kMbLanes, places, static_cast<std::size_t>(left * kMbLanes));
        }
    }
    return total;
}

/// Add a row's sum of bytes to the strip's, rounded as the pooled tensor's are.
inline void add_row_sum(const MbStrip& strip, int vector, Ints row_sum) {
    if (strip.mean_scale != 0.0f) {
        const Floats mean = fma(to_floats(row_sum), Floats::repeat(strip.mean_scale),
                                Floats::repeat(strip.mean_bias));
        float means[kMbLanes];
        clamp_to_byte(mean).store(means);
        for (int64_t i = 0; i < kMbLanes; ++i)
            strip.sums[vector * kMbLanes + i] += static_cast<int64_t>(means[i]);
        return;
    }
    std::int32_t sums[kMbLanes];
    row_sum.store(sums);
    for (int64_t i = 0; i < kMbLanes; ++i)
        strip.sums[vector * kMbLanes + i] += sums[i];
}

template <int kKernel, int kStride>
void strip_of(const MbStrip& strip) {
    const int64_t bytes = band_bytes(strip), columns = band_columns(strip);
    uint8_t* ring[2] = {strip.scratch, strip.scratch + bytes};
    uint8_t* patches = strip.scratch + 2 * bytes;
    for (uint8_t* band : ring) {
        fill_columns(strip, band, 0, strip.pad);
        fill_columns(strip, band, strip.pad + strip.width, columns);
    }
    std::fill_n(strip.sums, kMbChunk, 0);
    // Counted from one band above the tensor, so that nothing is negative.
    const auto band_of = [](int64_t row) { return (row + kMbRows) / kMbRows - 1; };
    int64_t made = band_of(strip.row_begin * kStride - strip.pad) - 1;
    for (int64_t row = strip.row_begin; row < strip.row_end; ++row) {
        const int64_t top = row * kStride - strip.pad;
        const int64_t first = band_of(top), last = band_of(top + kKernel - 1);
        for (made = std::max(made, first - 1); made < last;) {
            ++made;
            make_band(strip, made, ring[(made + 1) % 2], patches);
        }
        DepthRow depth{};
        depth.bands[0] = ring[(first + 1) % 2];
        depth.bands[1] = last > first ? ring[(last + 1) % 2] : nullptr;
        const int64_t phase = top - first * kMbRows;
        depth.weights = strip.depth_weights + phase * kKernel * 2 * kVectors * 64;
        depth.to = strip.output + (row - strip.out_row) * strip.out_width * kMbLanes;
        for (int v = 0; v < strip.vectors; ++v) {
            const Ints sum = last > first ? depth_row<kKernel, kStride, true>(strip, depth, v)
                                          : depth_row<kKernel, kStride, false>(strip, depth, v);
            add_row_sum(strip, v, sum);
        }
    }
}

void strip(const MbStrip& strip) {
    if (strip.kernel == 3)
        strip.stride == 1 ? strip_of<3, 1>(strip) : strip_of<3, 2>(strip);
    else
        strip.stride == 1 ? strip_of<5, 1>(strip) : strip_of<5, 2>(strip);
}

// ---- second pass

/// Gate `pixels` (a multiple of 4) pixels from `first` on into [in_vectors, pixels, 16].
void gate(const MbProject& project, int64_t first, int64_t pixels) {
    for (int64_t v = 0; v < project.in_vectors; ++v) {
        const uint8_t* from = project.input + (v * project.pixels + first) * kMbLanes;
        uint8_t* to = project.scratch + v * pixels * kMbLanes;
        const Floats scale = Floats::load(project.gate_scale + v * kMbLanes);
        const Floats bias = Floats::load(project.gate_bias + v * kMbLanes);
        for (int64_t p = 0; p < pixels; p += kPlaces) {
            Floats bytes[kPlaces];
            each<kPlaces>([&](auto i) INLINED {
                const Ints input = Ints::load_16_bytes(from + (p + i) * kMbLanes);
                bytes[i] = fma(to_floats(input), scale, bias);
            });
            by_place(pack(bytes[0], bytes[1], bytes[2], bytes[3])).store(to + p * kMbLanes);
        }
    }
}

/// 16 output channels at 4 pixels from `pixel` on: shortcut, rounding, storing.
inline void finish_projected(const MbProject& project, const Ints (&sums)[kPlaces], int64_t vector,
                             int64_t pixel) {
    const int64_t channel = vector * kMbLanes;
    const int64_t valid = std::min(kMbLanes, project.out_channels - channel);
    const int64_t places = std::min<int64_t>(kPlaces, project.pixel_end - pixel);
    const Floats scale = Floats::load(project.scale + channel);
    const Floats bias = Floats::load(project.bias + channel);
    Floats values[kPlaces];
    each<kPlaces>([&](auto p) INLINED {
        values[p] = fma(to_floats(sums[p]), scale, bias);
        if (project.shortcut == nullptr || p >= places)
            return;
        const Floats byte = clamp_to_byte(fma(values[p], Floats::repeat(project.inner_scale),
                                              Floats::repeat(project.inner_bias)));
        const Ints other =
            load_channels(project.shortcut + (pixel + p) * project.out_channels + channel, valid);
        const Floats rounded = fma(byte, Floats::repeat(project.inner_back_scale),
                                   Floats::repeat(project.inner_back_bias));
        values[p] = rounded + fma(to_floats(other), Floats::repeat(project.shortcut_scale),
                                  Floats::repeat(project.shortcut_bias));
    });
    if (project.float_output != nullptr) {
        for (int64_t p = 0; p < places; ++p) {
            float lanes[kMbLanes];
            values[p].store(lanes);
            for (int64_t i = 0; i < valid; ++i)
                project.float_output[(channel + i) * project.plane + pixel + p] = lanes[i];
        }
    }
    each<kPlaces>([&](auto p) INLINED {
        values[p] =
            fma(values[p], Floats::repeat(project.out_scale), Floats::repeat(project.out_bias));
    });
    uint8_t bytes[kPlaces][kMbLanes];
    by_place(pack(values[0], values[1], values[2], values[3])).store(bytes);
    for (int64_t p = 0; p < places; ++p) {
        uint8_t* to = project.output + (pixel + p) * project.out_channels + channel;
        if (valid == kMbLanes)
            std::memcpy(to, bytes[p], kMbLanes);
        else
            std::memcpy(to, bytes[p], kMbLanes / 2);
    }
}

/// 8 pixels of the scratch memory times one panel of weights.
template <int kPanel>
void project_pixels(const MbProject& project, const int8_t* weights, int64_t first_vector,
                    int64_t place, int64_t pixels) {
    Ints sums[kPanel][2][kPlaces];
    each<kPanel * kMbPixels>([&](auto i) INLINED { sums[i / 8][i / 4 % 2][i % 4] = Ints::zero(); });
    const uint8_t* from = project.scratch + place * kMbLanes;
    for (int64_t k = 0; k < project.in_vectors; ++k, from += pixels * kMbLanes) {
        for (int64_t part = 0; part < 4; ++part, weights += kPanel * 64) {
            Ints w[kPanel];
            each<kPanel>([&](auto v) INLINED { w[v] = Ints::load(weights + v * 64); });
            each<kMbPixels>([&](auto p) INLINED {
                const Ints input = Ints::repeat_4_bytes(from + p * kMbLanes + 4 * part);
                each<kPanel>([&](auto v) INLINED { dot4_to(sums[v][p / 4][p % 4], input, w[v]); });
            });
        }
    }
    const int64_t pixel = project.pixel_begin + place;
    each<kPanel>([&](auto v) INLINED {
        finish_projected(project, sums[v][0], first_vector + v, pixel);
        if (pixel + kPlaces < project.pixel_end)
            finish_projected(project, sums[v][1], first_vector + v, pixel + kPlaces);
    });
}

void project(const MbProject& project) {
    const int64_t count = project.pixel_end - project.pixel_begin;
    const int64_t pixels = (count + kMbPixels - 1) / kMbPixels * kMbPixels;
    gate(project, project.pixel_begin, pixels);
    // Panels of 3 vectors, or of 2 where that leaves no single one; tiled_mbconv.cpp packs alike.
    const int64_t panels = (project.out_vectors + kVectors - 1) / kVectors;
    const int8_t* weights = project.weights;
    for (int64_t panel = 0, vector = 0; panel < panels; ++panel) {
        const int64_t size = (project.out_vectors - vector + panels - panel - 1) / (panels - panel);
        for (int64_t place = 0; place < pixels; place += kMbPixels) {
            if (size == 3)
                project_pixels<3>(project, weights, vector, place, pixels);
            else if (size == 2)
                project_pixels<2>(project, weights, vector, place, pixels);
            else
                project_pixels<1>(project, weights, vector, place, pixels);
        }
        weights += project.in_vectors * 4 * size * 64;
        vector += size;
    }
}

// ---- small things

void quantize(const float* from, uint8_t* to, int64_t count, float scale, float bias) {
    const Floats s = Floats::repeat(scale), b = Floats::repeat(bias);
    int64_t i = 0;
    for (; i + 4 * kMbLanes <= count; i += 4 * kMbLanes) {
        Floats values[4];
        each<4>([&](auto p)
                    INLINED { values[p] = fma(Floats::load(from + i + p * kMbLanes), s, b); });
        by_place(pack(values[0], values[1], values[2], values[3])).store(to + i);
    }
    if (i == count)
        return;
    float last[4 * kMbLanes] = {};
    uint8_t bytes[4 * kMbLanes];
    std::memcpy(last, from + i, static_cast<std::size_t>(count - i) * sizeof(float));
    quantize(last, bytes, 4 * kMbLanes, scale, bias);
    std::memcpy(to + i, bytes, static_cast<std::size_t>(count - i));
}

}  // namespace

#define MAMMOFM_TEXT(name) #name
#define MAMMOFM_NAME(name) MAMMOFM_TEXT(name)
const MbConvKernel mbconv_kernel = {
    MAMMOFM_NAME(MAMMOFM_ISA), strip_scratch, strip, project, quantize, dot_rows};

}  // namespace mammofm::MAMMOFM_ISA
