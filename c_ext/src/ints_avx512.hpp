// Sixteen 32-bit integers in an AVX-512 register. Same functions as ints_portable.hpp, which
// documents them.
#pragma once

#include <cstdint>

namespace mammofm::MAMMOFM_ISA {
namespace {

struct Ints {
    __m512i raw;

    static Ints load(const void* from) { return {_mm512_loadu_si512(from)}; }
    static Ints broadcast(std::int32_t value) { return {_mm512_set1_epi32(value)}; }
    void store(void* to) const { _mm512_storeu_si512(to, raw); }
    void store_bytes(std::int8_t* to) const {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(raw));
    }
};

#ifdef __AVX512VNNI__

constexpr int kIntPanelVectors = 2;
constexpr int kIntGroup = 12;
constexpr int kIntBlockGroups = 10;
constexpr bool kIntsPay = true;

// Not the intrinsic: GCC 12 copies its sum in every iteration of a loop.
inline Ints dot_bytes(Ints sum, Ints unsigned_bytes, Ints signed_bytes) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum.raw) : "v"(unsigned_bytes.raw), "v"(signed_bytes.raw));
    return sum;
}

#else

constexpr int kIntPanelVectors = 2;
constexpr int kIntGroup = 8;
constexpr int kIntBlockGroups = 16;
constexpr bool kIntsPay = false;

inline Ints dot_bytes(Ints sum, Ints unsigned_bytes, Ints signed_bytes) {
    const __m512i a = unsigned_bytes.raw, b = signed_bytes.raw;
    const __m512i even = _mm512_madd_epi16(_mm512_and_si512(a, _mm512_set1_epi16(255)),
                                           _mm512_srai_epi16(_mm512_slli_epi16(b, 8), 8));
    const __m512i odd = _mm512_madd_epi16(_mm512_srli_epi16(a, 8), _mm512_srai_epi16(b, 8));
    return {_mm512_add_epi32(sum.raw, _mm512_add_epi32(even, odd))};
}

#endif

inline Ints operator+(Ints a, Ints b) {
    return {_mm512_add_epi32(a.raw, b.raw)};
}
inline Vec to_floats(Ints a) {
    return {_mm512_cvtepi32_ps(a.raw)};
}
inline Ints to_ints(Vec a) {
    return {_mm512_cvtps_epi32(a.raw)};
}
inline std::int32_t sum_of_lanes(Ints a) {
    return _mm512_reduce_add_epi32(a.raw);
}
inline Ints plus_128(Ints a) {
    return {_mm512_xor_si512(a.raw, _mm512_set1_epi8(-128))};
}
inline Ints low_bytes(Ints a) {
    return {_mm512_and_si512(a.raw, _mm512_set1_epi32(255))};
}
inline Ints join_bytes(Ints a, Ints b, Ints c, Ints d) {
    const auto ab = _mm512_or_si512(a.raw, _mm512_slli_epi32(b.raw, 8));
    const auto cd = _mm512_or_si512(_mm512_slli_epi32(c.raw, 16), _mm512_slli_epi32(d.raw, 24));
    return {_mm512_or_si512(ab, cd)};
}

}  // namespace
}  // namespace mammofm::MAMMOFM_ISA
