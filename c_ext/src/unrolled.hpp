// Loops without a loop, for kernels. Included by kernel sources only; like them it has internal
// linkage, so that no two instruction sets share a function.
#pragma once

#include <utility>

#define INLINED __attribute__((always_inline))

namespace mammofm::MAMMOFM_ISA {
namespace {

/// A number that is known when compiling.
template <int kValue>
struct Number {
    constexpr operator int() const { return kValue; }
};

template <typename Body, int... kNumbers>
INLINED inline void call_each(const Body& body, std::integer_sequence<int, kNumbers...>) {
    (body(Number<kNumbers>{}), ...);
}

/// body(0), body(1), ... body(kCount - 1) without a loop: arrays that only constants index are kept
/// in registers, those that an unrolled loop indexes are not (GCC 12).
template <int kCount, typename Body>
INLINED inline void each(const Body& body) {
    call_each(body, std::make_integer_sequence<int, kCount>{});
}

}  // namespace
}  // namespace mammofm::MAMMOFM_ISA
