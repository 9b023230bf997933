// Sixteen floats in an AVX-512 register, for every instruction set that has them. Same functions as
// vec_portable.hpp, which documents them.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace mammofm::MAMMOFM_ISA {
namespace {

struct Mask {
    __mmask16 raw;
};

struct Vec {
    static constexpr int kLanes = 16;

    __m512 raw;

    static Vec load(const float* from) { return {_mm512_loadu_ps(from)}; }
    static Vec broadcast(float value) { return {_mm512_set1_ps(value)}; }
    static Vec load_partial(const float* from, int count) {
        return {_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from)};
    }
    void store(float* to) const { _mm512_storeu_ps(to, raw); }
};

// 24 of 32 registers hold sums, 3 the vectors that each broadcast value meets; 8 divides the depths
// in use.
constexpr int kPanelVectors = 3;
constexpr int kGroup = 8;
constexpr int kBlockGroups = 12;

inline Vec operator+(Vec a, Vec b) {
    return {_mm512_add_ps(a.raw, b.raw)};
}
inline Vec operator-(Vec a, Vec b) {
    return {_mm512_sub_ps(a.raw, b.raw)};
}
inline Vec operator*(Vec a, Vec b) {
    return {_mm512_mul_ps(a.raw, b.raw)};
}
inline Vec operator/(Vec a, Vec b) {
    return {_mm512_div_ps(a.raw, b.raw)};
}
inline Vec fma(Vec a, Vec b, Vec c) {
    return {_mm512_fmadd_ps(a.raw, b.raw, c.raw)};
}
inline Vec max(Vec a, Vec b) {
    return {_mm512_max_ps(a.raw, b.raw)};
}
inline Vec min(Vec a, Vec b) {
    return {_mm512_min_ps(a.raw, b.raw)};
}
inline Vec reciprocal(Vec a) {
    // Within 2^-14, and a step of Newton's; a division takes the time of ten products.
    const __m512 guess = _mm512_rcp14_ps(a.raw);
    const __m512 rest = _mm512_fnmadd_ps(a.raw, guess, _mm512_set1_ps(2.0f));
    return {_mm512_mul_ps(guess, rest)};
}
inline Mask operator<(Vec a, Vec b) {
    return {_mm512_cmp_ps_mask(a.raw, b.raw, _CMP_LT_OQ)};
}
inline Mask operator<=(Vec a, Vec b) {
    return {_mm512_cmp_ps_mask(a.raw, b.raw, _CMP_LE_OQ)};
}
inline Mask operator==(Vec a, Vec b) {
    return {_mm512_cmp_ps_mask(a.raw, b.raw, _CMP_EQ_OQ)};
}
inline Mask operator&(Mask a, Mask b) {
    return {_kand_mask16(a.raw, b.raw)};
}
inline Vec select(Mask mask, Vec yes, Vec no) {
    return {_mm512_mask_blend_ps(mask.raw, no.raw, yes.raw)};
}
inline Vec exp2_of_shifted(Vec shifted) {
    const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted.raw), 23);
    const __m512i one = _mm512_castps_si512(_mm512_set1_ps(1.0f));
    return {_mm512_castsi512_ps(_mm512_add_epi32(exponent, one))};
}
inline float max_of_lanes(Vec a) {
    return _mm512_reduce_max_ps(a.raw);
}
inline float sum_of_lanes(Vec a) {
    return _mm512_reduce_add_ps(a.raw);
}

inline void transpose_block(const float* from, std::int64_t from_stride, float* to,
                            std::int64_t to_stride) {
    __m512 rows[Vec::kLanes], pairs[Vec::kLanes], fours[Vec::kLanes];
    for (int i = 0; i < Vec::kLanes; ++i)
        rows[i] = Vec::load(from + i * from_stride).raw;
    for (int i = 0; i < Vec::kLanes; i += 2) {
        pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
    // fours[i + j] holds columns j, 4 + j.. of rows i..i + 3, one column in 128 bits.
    for (int i = 0; i < Vec::kLanes; i += 4) {
        for (int j = 0; j < 2; ++j) {
            const auto low = _mm512_castps_pd(pairs[i + j]),
                       high = _mm512_castps_pd(pairs[i + 2 + j]);
            fours[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
            fours[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
        }
    }
    for (int j = 0; j < 4; ++j) {
        const __m512 even_low = _mm512_shuffle_f32x4(fours[j], fours[4 + j], 0x88);
        const __m512 odd_low = _mm512_shuffle_f32x4(fours[j], fours[4 + j], 0xdd);
        const __m512 even_high = _mm512_shuffle_f32x4(fours[8 + j], fours[12 + j], 0x88);
        const __m512 odd_high = _mm512_shuffle_f32x4(fours[8 + j], fours[12 + j], 0xdd);
        Vec{_mm512_shuffle_f32x4(even_low, even_high, 0x88)}.store(to + j * to_stride);
        Vec{_mm512_shuffle_f32x4(odd_low, odd_high, 0x88)}.store(to + (4 + j) * to_stride);
        Vec{_mm512_shuffle_f32x4(even_low, even_high, 0xdd)}.store(to + (8 + j) * to_stride);
        Vec{_mm512_shuffle_f32x4(odd_low, odd_high, 0xdd)}.store(to + (12 + j) * to_stride);
    }
}

}  // namespace
}  // namespace mammofm::MAMMOFM_ISA
