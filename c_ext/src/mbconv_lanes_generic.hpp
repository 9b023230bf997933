// Sixteen channels in whatever registers the compiler has been allowed: SSE2 or AVX2.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace mammofm::MAMMOFM_ISA {
namespace {

using RawInts = std::int32_t __attribute__((vector_size(64)));
using RawFloats = float __attribute__((vector_size(64)));

struct Ints {
    RawInts raw;

    static Ints zero() { return {RawInts{}}; }
    static Ints load(const void* from) {
        Ints result;
        std::memcpy(&result.raw, from, sizeof result.raw);
        return result;
    }
    static Ints repeat(std::uint32_t value) {
        return {RawInts{} + static_cast<std::int32_t>(value)};
    }
    /// The same 4 bytes in every channel.
    static Ints repeat_4_bytes(const std::uint8_t* from) {
        std::uint32_t value;
        std::memcpy(&value, from, sizeof value);
        return repeat(value);
    }
    /// One byte per channel, as a whole number.
    static Ints load_16_bytes(const std::uint8_t* from) {
        Ints result;
        for (int i = 0; i < 16; ++i)
            result.raw[i] = from[i];
        return result;
    }
    void store(void* to) const { std::memcpy(to, &raw, sizeof raw); }
};

struct Floats {
    RawFloats raw;

    static Floats load(const float* from) {
        Floats result;
        std::memcpy(&result.raw, from, sizeof result.raw);
        return result;
    }
    static Floats repeat(float value) { return {RawFloats{} + value}; }
    void store(float* to) const { std::memcpy(to, &raw, sizeof raw); }
};

inline Ints operator+(Ints a, Ints b) {
    return {a.raw + b.raw};
}
inline Ints operator&(Ints a, Ints b) {
    return {a.raw & b.raw};
}
inline Ints operator|(Ints a, Ints b) {
    return {a.raw | b.raw};
}
/// Bits of `yes` where `mask` has ones, of `no` elsewhere.
inline Ints select_bits(Ints mask, Ints yes, Ints no) {
    return {(mask.raw & yes.raw) | (~mask.raw & no.raw)};
}
template <int kBits>
inline Ints shift_left(Ints a) {
    return {a.raw << kBits};
}

/// sums += the dot product of 4 bytes without sign and 4 weights with sign; exact.
inline void dot4_to(Ints& sums, Ints bytes, Ints weights) {
#if defined(__AVX2__)
    using Part = __m256i;
    const auto add = [](Part a, Part b) { return _mm256_add_epi32(a, b); };
    const auto products = [](Part a, Part w) {
        const Part even = _mm256_and_si256(a, _mm256_set1_epi16(0xFF));
        const Part odd = _mm256_srli_epi16(a, 8);
        const Part even_w = _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8);
        const Part odd_w = _mm256_srai_epi16(w, 8);
        return _mm256_add_epi32(_mm256_madd_epi16(even, even_w), _mm256_madd_epi16(odd, odd_w));
    };
#else
    using Part = __m128i;
    const auto add = [](Part a, Part b) { return _mm_add_epi32(a, b); };
    const auto products = [](Part a, Part w) {
        const Part even = _mm_and_si128(a, _mm_set1_epi16(0xFF));
        const Part odd = _mm_srli_epi16(a, 8);
        const Part even_w = _mm_srai_epi16(_mm_slli_epi16(w, 8), 8);
        const Part odd_w = _mm_srai_epi16(w, 8);
        return _mm_add_epi32(_mm_madd_epi16(even, even_w), _mm_madd_epi16(odd, odd_w));
    };
#endif
    constexpr int kParts = sizeof(RawInts) / sizeof(Part);
    Part s[kParts], b[kParts], w[kParts];
    std::memcpy(s, &sums.raw, sizeof s);
    std::memcpy(b, &bytes.raw, sizeof b);
    std::memcpy(w, &weights.raw, sizeof w);
    for (int i = 0; i < kParts; ++i)
        s[i] = add(s[i], products(b[i], w[i]));
    std::memcpy(&sums.raw, s, sizeof s);
}

inline Floats to_floats(Ints a) {
    return {__builtin_convertvector(a.raw, RawFloats)};
}
inline Floats fma(Floats a, Floats b, Floats c) {
    return {a.raw * b.raw + c.raw};
}
inline Floats operator*(Floats a, Floats b) {
    return {a.raw * b.raw};
}
inline Floats operator+(Floats a, Floats b) {
    return {a.raw + b.raw};
}

constexpr float kRound =
    12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number, ties to even

inline RawFloats limited(RawFloats a, float low, float high) {
    const RawFloats lows = RawFloats{} + low, highs = RawFloats{} + high;
    a = a > lows ? a : lows;  // a NaN becomes `low`
    return a < highs ? a : highs;
}

/// The nearest whole number in 0..255.
inline Floats clamp_to_byte(Floats a) {
    const RawFloats shifted = limited(a.raw, 0.0f, 255.0f) + kRound;
    return {shifted - kRound};
}

/// value / (1 + 2^exponent): swish, if exponent is -value * log2(e). Within 2e-4 of it, relatively.
inline Floats times_sigmoid(Floats value, Floats exponent) {
    const RawFloats t = limited(exponent.raw, -126.0f, 126.0f);
    const RawFloats shifted = t + kRound;
    const RawFloats fraction = t - (shifted - kRound);
    RawFloats power = 0.05517166f * fraction + 0.24261112f;
    power = power * fraction + 0.69326099f;
    power = power * fraction + 0.99992807f;
    RawInts bits, exponents;
    std::memcpy(&bits, &power, sizeof bits);
    std::memcpy(&exponents, &shifted, sizeof exponents);
    bits += exponents << 23;
    std::memcpy(&power, &bits, sizeof bits);
    return {value.raw / (power + 1.0f)};
}

/// Bytes of 16 channels at 4 places.
struct Bytes {
    std::uint8_t place[4][16];
};

/// Rounded to whole numbers, ties to even, and limited to 0..255.
inline Bytes pack(Floats a, Floats b, Floats c, Floats d) {
    const Floats* from[4] = {&a, &b, &c, &d};
    Bytes result;
    for (int p = 0; p < 4; ++p) {
        const RawFloats shifted = limited(from[p]->raw, 0.0f, 255.0f) + kRound;
        RawInts bits;
        std::memcpy(&bits, &shifted, sizeof bits);
        for (int i = 0; i < 16; ++i)
            result.place[p][i] = static_cast<std::uint8_t>(bits[i]);
    }
    return result;
}
/// Channel after channel, the 4 places of each together.
inline Ints by_channel(Bytes bytes) {
    std::uint8_t order[16][4];
    for (int i = 0; i < 16; ++i)
        for (int p = 0; p < 4; ++p)
            order[i][p] = bytes.place[p][i];
    return Ints::load(order);
}
/// Place after place, the 16 channels of each together.
inline Ints by_place(Bytes bytes) {
    return Ints::load(bytes.place);
}

}  // namespace
}  // namespace mammofm::MAMMOFM_ISA
