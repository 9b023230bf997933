// Eight floats in an AVX2 register. Same functions as vec_portable.hpp, which documents them.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace mammofm::avx2 {
namespace {

struct Mask {
    __m256 raw;
};

struct Vec {
    static constexpr int kLanes = 8;

    __m256 raw;

    static Vec load(const float* from) { return {_mm256_loadu_ps(from)}; }
    static Vec broadcast(float value) { return {_mm256_set1_ps(value)}; }
    static Vec load_partial(const float* from, int count) {
        const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        return {_mm256_maskload_ps(from, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lanes))};
    }
    void store(float* to) const { _mm256_storeu_ps(to, raw); }
};

// 12 of 16 registers hold sums, enough to hide the latency of two FMA units.
constexpr int kPanelVectors = 2;
constexpr int kGroup = 6;
constexpr int kBlockGroups = 10;

inline Vec operator+(Vec a, Vec b) {
    return {_mm256_add_ps(a.raw, b.raw)};
}
inline Vec operator-(Vec a, Vec b) {
    return {_mm256_sub_ps(a.raw, b.raw)};
}
inline Vec operator*(Vec a, Vec b) {
    return {_mm256_mul_ps(a.raw, b.raw)};
}
inline Vec operator/(Vec a, Vec b) {
    return {_mm256_div_ps(a.raw, b.raw)};
}
inline Vec fma(Vec a, Vec b, Vec c) {
    return {_mm256_fmadd_ps(a.raw, b.raw, c.raw)};
}
inline Vec max(Vec a, Vec b) {
    return {_mm256_max_ps(a.raw, b.raw)};
}
inline Vec min(Vec a, Vec b) {
    return {_mm256_min_ps(a.raw, b.raw)};
}
inline Vec reciprocal(Vec a) {
    return {_mm256_div_ps(_mm256_set1_ps(1.0f), a.raw)};
}
inline Mask operator<(Vec a, Vec b) {
    return {_mm256_cmp_ps(a.raw, b.raw, _CMP_LT_OQ)};
}
inline Mask operator<=(Vec a, Vec b) {
    return {_mm256_cmp_ps(a.raw, b.raw, _CMP_LE_OQ)};
}
inline Mask operator==(Vec a, Vec b) {
    return {_mm256_cmp_ps(a.raw, b.raw, _CMP_EQ_OQ)};
}
inline Mask operator&(Mask a, Mask b) {
    return {_mm256_and_ps(a.raw, b.raw)};
}
inline Vec select(Mask mask, Vec yes, Vec no) {
    return {_mm256_blendv_ps(no.raw, yes.raw, mask.raw)};
}
inline Vec exp2_of_shifted(Vec shifted) {
    const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted.raw), 23);
    const __m256i one = _mm256_castps_si256(_mm256_set1_ps(1.0f));
    return {_mm256_castsi256_ps(_mm256_add_epi32(exponent, one))};
}
inline float max_of_lanes(Vec a) {
    const __m128 half = _mm_max_ps(_mm256_castps256_ps128(a.raw), _mm256_extractf128_ps(a.raw, 1));
    const __m128 pairs = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(pairs, _mm_shuffle_ps(pairs, pairs, 1)));
}
inline float sum_of_lanes(Vec a) {
    const __m128 half = _mm_add_ps(_mm256_castps256_ps128(a.raw), _mm256_extractf128_ps(a.raw, 1));
    const __m128 pairs = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(pairs, _mm_shuffle_ps(pairs, pairs, 1)));
}

inline void transpose_block(const float* from, std::int64_t from_stride, float* to,
                            std::int64_t to_stride) {
    __m256 rows[Vec::kLanes], pairs[Vec::kLanes], fours[Vec::kLanes];
    for (int i = 0; i < Vec::kLanes; ++i)
        rows[i] = Vec::load(from + i * from_stride).raw;
    for (int i = 0; i < Vec::kLanes; i += 2) {
        pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    }
    // fours[i + j] holds columns j, 4 + j.. of rows i..i + 3, one column in 128 bits.
    for (int i = 0; i < Vec::kLanes; i += 4) {
        for (int j = 0; j < 2; ++j) {
            const auto low = _mm256_castps_pd(pairs[i + j]),
                       high = _mm256_castps_pd(pairs[i + 2 + j]);
            fours[i + 2 * j] = _mm256_castpd_ps(_mm256_unpacklo_pd(low, high));
            fours[i + 2 * j + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low, high));
        }
    }
    for (int j = 0; j < 4; ++j) {
        const __m256 low = fours[j], high = fours[4 + j];
        Vec{_mm256_permute2f128_ps(low, high, 0x20)}.store(to + j * to_stride);
        Vec{_mm256_permute2f128_ps(low, high, 0x31)}.store(to + (4 + j) * to_stride);
    }
}

}  // namespace
}  // namespace mammofm::avx2
