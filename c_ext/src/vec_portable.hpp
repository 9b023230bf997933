// Four floats in an SSE2 register: what every x86-64 CPU has.
#pragma once

#include <emmintrin.h>

#include <cstdint>

namespace mammofm::portable {
namespace {

/// What lanes a condition holds in.
struct Mask {
    __m128 raw;
};

struct Vec {
    static constexpr int kLanes = 4;

    __m128 raw;

    static Vec load(const float* from) { return {_mm_loadu_ps(from)}; }
    static Vec broadcast(float value) { return {_mm_set1_ps(value)}; }
    /// The first `count` < kLanes floats, then zeros; nothing behind them is read.
    static Vec load_partial(const float* from, int count) {
        float lanes[kLanes] = {};
        for (int i = 0; i < count; ++i)
            lanes[i] = from[i];
        return load(lanes);
    }
    void store(float* to) const { _mm_storeu_ps(to, raw); }
};

// 8 of 16 registers hold sums; without FMA a product needs one more.
constexpr int kPanelVectors = 2;
constexpr int kGroup = 4;
constexpr int kBlockGroups = 16;

inline Vec operator+(Vec a, Vec b) {
    return {_mm_add_ps(a.raw, b.raw)};
}
inline Vec operator-(Vec a, Vec b) {
    return {_mm_sub_ps(a.raw, b.raw)};
}
inline Vec operator*(Vec a, Vec b) {
    return {_mm_mul_ps(a.raw, b.raw)};
}
inline Vec operator/(Vec a, Vec b) {
    return {_mm_div_ps(a.raw, b.raw)};
}

/// a * b + c.
inline Vec fma(Vec a, Vec b, Vec c) {
    return a * b + c;
}

/// The larger; `b` where either is NaN.
inline Vec max(Vec a, Vec b) {
    return {_mm_max_ps(a.raw, b.raw)};
}

/// The smaller; `b` where either is NaN.
inline Vec min(Vec a, Vec b) {
    return {_mm_min_ps(a.raw, b.raw)};
}

/// 1 / a within 2e-7, for a from 2^-126 to 2^126.
inline Vec reciprocal(Vec a) {
    return {_mm_div_ps(_mm_set1_ps(1.0f), a.raw)};
}

/// False where either is NaN, as are all comparisons.
inline Mask operator<(Vec a, Vec b) {
    return {_mm_cmplt_ps(a.raw, b.raw)};
}
inline Mask operator<=(Vec a, Vec b) {
    return {_mm_cmple_ps(a.raw, b.raw)};
}
inline Mask operator==(Vec a, Vec b) {
    return {_mm_cmpeq_ps(a.raw, b.raw)};
}
inline Mask operator&(Mask a, Mask b) {
    return {_mm_and_ps(a.raw, b.raw)};
}

inline Vec select(Mask mask, Vec yes, Vec no) {
    return {_mm_or_ps(_mm_and_ps(mask.raw, yes.raw), _mm_andnot_ps(mask.raw, no.raw))};
}

/// 2^n for whole n in -126..127, given n + 1.5 * 2^23: n is in the low bits of that float.
inline Vec exp2_of_shifted(Vec shifted) {
    const __m128i exponent = _mm_slli_epi32(_mm_castps_si128(shifted.raw), 23);
    return {_mm_castsi128_ps(_mm_add_epi32(exponent, _mm_castps_si128(_mm_set1_ps(1.0f))))};
}

inline float max_of_lanes(Vec a) {
    const __m128 pairs = _mm_max_ps(a.raw, _mm_movehl_ps(a.raw, a.raw));
    return _mm_cvtss_f32(_mm_max_ss(pairs, _mm_shuffle_ps(pairs, pairs, 1)));
}

inline float sum_of_lanes(Vec a) {
    const __m128 pairs = _mm_add_ps(a.raw, _mm_movehl_ps(a.raw, a.raw));
    return _mm_cvtss_f32(_mm_add_ss(pairs, _mm_shuffle_ps(pairs, pairs, 1)));
}

/// to[c * to_stride + r] = from[r * from_stride + c] for kLanes rows and columns.
inline void transpose_block(const float* from, std::int64_t from_stride, float* to,
                            std::int64_t to_stride) {
    __m128 rows[Vec::kLanes], pairs[Vec::kLanes], fours[Vec::kLanes];
    for (int i = 0; i < Vec::kLanes; ++i)
        rows[i] = Vec::load(from + i * from_stride).raw;
    for (int i = 0; i < Vec::kLanes; i += 2) {
        pairs[i] = _mm_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm_unpackhi_ps(rows[i], rows[i + 1]);
    }
    // fours[i + j] holds columns j, 4 + j.. of rows i..i + 3, one column in 128 bits.
    for (int i = 0; i < Vec::kLanes; i += 4) {
        for (int j = 0; j < 2; ++j) {
            const auto low = _mm_castps_pd(pairs[i + j]), high = _mm_castps_pd(pairs[i + 2 + j]);
            fours[i + 2 * j] = _mm_castpd_ps(_mm_unpacklo_pd(low, high));
            fours[i + 2 * j + 1] = _mm_castpd_ps(_mm_unpackhi_pd(low, high));
        }
    }
    for (int j = 0; j < 4; ++j)
        Vec{fours[j]}.store(to + j * to_stride);
}

}  // namespace
}  // namespace mammofm::portable
