// Eight 32-bit integers in an AVX2 register. Same functions as ints_portable.hpp, which documents
// them.
#pragma once

#include <cstdint>

namespace mammofm::MAMMOFM_ISA {
namespace {

struct Ints {
    __m256i raw;

    static Ints load(const void* from) {
        return {_mm256_loadu_si256(static_cast<const __m256i*>(from))};
    }
    static Ints broadcast(std::int32_t value) { return {_mm256_set1_epi32(value)}; }
    void store(void* to) const { _mm256_storeu_si256(static_cast<__m256i*>(to), raw); }
    void store_bytes(std::int8_t* to) const {
        const __m128i words =
            _mm_packs_epi32(_mm256_castsi256_si128(raw), _mm256_extracti128_si256(raw, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packs_epi16(words, words));
    }
};

constexpr int kIntPanelVectors = 2;
constexpr int kIntGroup = 4;
constexpr int kIntBlockGroups = 32;
constexpr bool kIntsPay = false;

// vpmaddubsw would be shorter, but sums of its products saturate.
inline Ints dot_bytes(Ints sum, Ints unsigned_bytes, Ints signed_bytes) {
    const __m256i a = unsigned_bytes.raw, b = signed_bytes.raw;
    const __m256i even = _mm256_madd_epi16(_mm256_and_si256(a, _mm256_set1_epi16(255)),
                                           _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(a, 8), _mm256_srai_epi16(b, 8));
    return {_mm256_add_epi32(sum.raw, _mm256_add_epi32(even, odd))};
}

inline Ints operator+(Ints a, Ints b) {
    return {_mm256_add_epi32(a.raw, b.raw)};
}
inline Vec to_floats(Ints a) {
    return {_mm256_cvtepi32_ps(a.raw)};
}
inline Ints to_ints(Vec a) {
    return {_mm256_cvtps_epi32(a.raw)};
}
inline std::int32_t sum_of_lanes(Ints a) {
    const __m128i half =
        _mm_add_epi32(_mm256_castsi256_si128(a.raw), _mm256_extracti128_si256(a.raw, 1));
    const __m128i pairs = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(pairs, _mm_shuffle_epi32(pairs, 0xb1)));
}
inline Ints plus_128(Ints a) {
    return {_mm256_xor_si256(a.raw, _mm256_set1_epi8(-128))};
}
inline Ints low_bytes(Ints a) {
    return {_mm256_and_si256(a.raw, _mm256_set1_epi32(255))};
}
inline Ints join_bytes(Ints a, Ints b, Ints c, Ints d) {
    const auto ab = _mm256_or_si256(a.raw, _mm256_slli_epi32(b.raw, 8));
    const auto cd = _mm256_or_si256(_mm256_slli_epi32(c.raw, 16), _mm256_slli_epi32(d.raw, 24));
    return {_mm256_or_si256(ab, cd)};
}

}  // namespace
}  // namespace mammofm::MAMMOFM_ISA
