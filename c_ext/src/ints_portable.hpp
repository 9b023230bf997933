// Four 32-bit integers in an SSE2 register, beside vec_portable.hpp.
#pragma once

#include <cstdint>
#include <cstring>

namespace mammofm::MAMMOFM_ISA {
namespace {

struct Ints {
    __m128i raw;

    static Ints load(const void* from) {
        return {_mm_loadu_si128(static_cast<const __m128i*>(from))};
    }
    static Ints broadcast(std::int32_t value) { return {_mm_set1_epi32(value)}; }
    void store(void* to) const { _mm_storeu_si128(static_cast<__m128i*>(to), raw); }
    /// The low byte of every lane.
    void store_bytes(std::int8_t* to) const {
        const __m128i words = _mm_packs_epi32(raw, raw);
        const int bytes = _mm_cvtsi128_si32(_mm_packs_epi16(words, words));
        std::memcpy(to, &bytes, sizeof bytes);
    }
};

// As kPanelVectors, kGroup and kBlockGroups, for the INT8 kernel.
constexpr int kIntPanelVectors = 2;
constexpr int kIntGroup = 2;
constexpr int kIntBlockGroups = 64;
/// Whether attention with INT8 products is faster than in float32.
constexpr bool kIntsPay = false;

/// sum + products of the four bytes of every lane, unsigned times signed.
inline Ints dot_bytes(Ints sum, Ints unsigned_bytes, Ints signed_bytes) {
    const __m128i a = unsigned_bytes.raw, b = signed_bytes.raw;
    const __m128i even = _mm_madd_epi16(_mm_and_si128(a, _mm_set1_epi16(255)),
                                        _mm_srai_epi16(_mm_slli_epi16(b, 8), 8));
    const __m128i odd = _mm_madd_epi16(_mm_srli_epi16(a, 8), _mm_srai_epi16(b, 8));
    return {_mm_add_epi32(sum.raw, _mm_add_epi32(even, odd))};
}

inline Ints operator+(Ints a, Ints b) {
    return {_mm_add_epi32(a.raw, b.raw)};
}
inline Vec to_floats(Ints a) {
    return {_mm_cvtepi32_ps(a.raw)};
}

/// Rounded to the nearest, halves to even.
inline Ints to_ints(Vec a) {
    return {_mm_cvtps_epi32(a.raw)};
}

inline std::int32_t sum_of_lanes(Ints a) {
    const __m128i pairs = _mm_add_epi32(a.raw, _mm_shuffle_epi32(a.raw, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(pairs, _mm_shuffle_epi32(pairs, 0xb1)));
}

/// 128 added to every signed byte, which makes it an unsigned one.
inline Ints plus_128(Ints a) {
    return {_mm_xor_si128(a.raw, _mm_set1_epi8(-128))};
}

/// The low byte of every lane as a number from 0 to 255.
inline Ints low_bytes(Ints a) {
    return {_mm_and_si128(a.raw, _mm_set1_epi32(255))};
}

/// Lanes whose bytes are a, b, c and d, the lowest first; all are 0 to 255.
inline Ints join_bytes(Ints a, Ints b, Ints c, Ints d) {
    const auto ab = _mm_or_si128(a.raw, _mm_slli_epi32(b.raw, 8));
    const auto cd = _mm_or_si128(_mm_slli_epi32(c.raw, 16), _mm_slli_epi32(d.raw, 24));
    return {_mm_or_si128(ab, cd)};
}

}  // namespace
}  // namespace mammofm::MAMMOFM_ISA
