// A matrix times a vector, for kernels. Included by kernel sources only; like them it has internal
// linkage, so that no two instruction sets share a function.
#pragma once

#include <cstdint>

namespace mammofm::MAMMOFM_ISA {
namespace {

/// to[i] += sum over j of weights[i, j] * from[j].
inline void dot_rows(const float* weights, const float* from, float* to, std::int64_t rows,
                     std::int64_t columns) {
    constexpr std::int64_t kSums = 16;  // side by side, for the compiler may not reorder one sum
    for (std::int64_t i = 0; i < rows; ++i, weights += columns) {
        float sums[kSums] = {};
        std::int64_t j = 0;
        for (; j + kSums <= columns; j += kSums)
            for (std::int64_t k = 0; k < kSums; ++k)
                sums[k] += weights[j + k] * from[j + k];
        for (std::int64_t k = 0; j < columns; ++j, ++k)
            sums[k] += weights[j] * from[j];
        for (const float sum : sums)
            to[i] += sum;
    }
}

}  // namespace
}  // namespace mammofm::MAMMOFM_ISA
