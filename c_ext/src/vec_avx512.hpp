// Sixteen floats in an AVX-512 register, for every instruction set that has them. Same functions as
// vec_portable.hpp, which documents them.
#pragma once

#include <immintrin.h>

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

// 24 of 32 registers hold sums, 4 the vectors that each broadcast value meets.
constexpr int kPanelVectors = 4;
constexpr int kGroup = 6;
constexpr int kBlockGroups = 10;

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
inline float sum_of_lanes(Vec a) {
    return _mm512_reduce_add_ps(a.raw);
}

}  // namespace
}  // namespace mammofm::MAMMOFM_ISA
