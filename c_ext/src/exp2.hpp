// Powers of two, for kernels. Included by kernel sources only, after their vectors; like those it
// has internal linkage, so that no two instruction sets share a function.
#pragma once

namespace mammofm::MAMMOFM_ISA {
namespace {

/// 2^x for x <= 127; 0 below -126.5, NaN for NaN. Relative error below 2e-7.
///
/// x = n + r with n whole and |r| <= 1/2; the polynomial of 2^r is minimax in relative error (9e-8)
/// among those of degree 5 that are 1 at 0.
inline Vec exp2(Vec x) {
    const Vec lowest = Vec::broadcast(-127.0f);     // its power has the exponent bits of zero
    const Vec shift = Vec::broadcast(12582912.0f);  // 1.5 * 2^23: the sum rounds to whole numbers
    const Vec bounded = max(lowest, x);             // this order keeps NaN
    const Vec shifted = bounded + shift;
    const Vec r = bounded - (shifted - shift);
    Vec p = Vec::broadcast(1.32647e-3f);
    p = fma(p, r, Vec::broadcast(9.67151e-3f));
    p = fma(p, r, Vec::broadcast(5.550734e-2f));
    p = fma(p, r, Vec::broadcast(2.4022242e-1f));
    p = fma(p, r, Vec::broadcast(6.9314698e-1f));
    p = fma(p, r, Vec::broadcast(1.0f));
    return p * exp2_of_shifted(shifted);
}

}  // namespace
}  // namespace mammofm::MAMMOFM_ISA
