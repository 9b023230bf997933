// Sixteen channels in an AVX-512 register, with VNNI. Same functions as mbconv_lanes_generic.hpp,
// which documents them.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace mammofm::avx512vnni {
namespace {

struct Ints {
    __m512i raw;

    static Ints zero() { return {_mm512_setzero_si512()}; }
    static Ints load(const void* from) { return {_mm512_loadu_si512(from)}; }
    static Ints repeat(std::uint32_t value) { return {_mm512_set1_epi32(static_cast<int>(value))}; }
    static Ints repeat_4_bytes(const std::uint8_t* from) {
        int value;
        std::memcpy(&value, from, sizeof value);
        return {_mm512_set1_epi32(value)};
    }
    static Ints load_16_bytes(const std::uint8_t* from) {
        return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))};
    }
    void store(void* to) const { _mm512_storeu_si512(to, raw); }
};

struct Floats {
    __m512 raw;

    static Floats load(const float* from) { return {_mm512_loadu_ps(from)}; }
    static Floats repeat(float value) { return {_mm512_set1_ps(value)}; }
    void store(float* to) const { _mm512_storeu_ps(to, raw); }
};

inline Ints operator+(Ints a, Ints b) {
    return {_mm512_add_epi32(a.raw, b.raw)};
}
inline Ints operator&(Ints a, Ints b) {
    return {_mm512_and_si512(a.raw, b.raw)};
}
inline Ints operator|(Ints a, Ints b) {
    return {_mm512_or_si512(a.raw, b.raw)};
}
inline Ints select_bits(Ints mask, Ints yes, Ints no) {
    return {_mm512_ternarylogic_epi32(mask.raw, yes.raw, no.raw, 0xCA)};
}
template <int kBits>
inline Ints shift_left(Ints a) {
    return {_mm512_slli_epi32(a.raw, kBits)};
}
inline void dot4_to(Ints& sums, Ints bytes, Ints weights) {
    // Not the intrinsic: around it GCC 12 copies the sums from register to register.
    __m512i raw = sums.raw;
    asm("vpdpbusd %2, %1, %0" : "+v"(raw) : "v"(bytes.raw), "v"(weights.raw));
    sums.raw = raw;
}
inline Floats to_floats(Ints a) {
    return {_mm512_cvtepi32_ps(a.raw)};
}
inline Floats fma(Floats a, Floats b, Floats c) {
    return {_mm512_fmadd_ps(a.raw, b.raw, c.raw)};
}
inline Floats operator*(Floats a, Floats b) {
    return {_mm512_mul_ps(a.raw, b.raw)};
}
inline Floats operator+(Floats a, Floats b) {
    return {_mm512_add_ps(a.raw, b.raw)};
}
inline Floats clamp_to_byte(Floats a) {
    const __m512 high = _mm512_min_ps(a.raw, _mm512_set1_ps(255.0f));
    return {_mm512_roundscale_ps(_mm512_max_ps(high, _mm512_setzero_ps()), 0x08)};
}

inline Floats times_sigmoid(Floats value, Floats exponent) {
    const __m512 fraction = _mm512_reduce_ps(exponent.raw, 0x09);  // over the whole number below
    __m512 power =
        _mm512_fmadd_ps(_mm512_set1_ps(0.07802452f), fraction, _mm512_set1_ps(0.22606716f));
    power = _mm512_fmadd_ps(power, fraction, _mm512_set1_ps(0.69583354f));
    power = _mm512_fmadd_ps(power, fraction, _mm512_set1_ps(0.99992522f));
    const __m512 e = _mm512_scalef_ps(power, exponent.raw);
    return {_mm512_mul_ps(value.raw, _mm512_rcp14_ps(_mm512_add_ps(e, _mm512_set1_ps(1.0f))))};
}

struct Bytes {
    __m512i raw;  // in each quarter of 4 channels: 4 bytes of `a`, 4 of `b`, 4 of `c`, 4 of `d`
};

inline Bytes pack(Floats a, Floats b, Floats c, Floats d) {
    const __m512i ab = _mm512_packs_epi32(_mm512_cvtps_epi32(a.raw), _mm512_cvtps_epi32(b.raw));
    const __m512i cd = _mm512_packs_epi32(_mm512_cvtps_epi32(c.raw), _mm512_cvtps_epi32(d.raw));
    return {_mm512_packus_epi16(ab, cd)};
}
inline Ints by_channel(Bytes bytes) {
    const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return {_mm512_shuffle_epi8(bytes.raw, _mm512_broadcast_i32x4(order))};
}
inline Ints by_place(Bytes bytes) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return {_mm512_permutexvar_epi32(order, bytes.raw)};
}

}  // namespace
}  // namespace mammofm::avx512vnni
