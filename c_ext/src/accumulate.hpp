// A row of numbers times a matrix, for kernels. Included by kernel sources only; like them it has
// internal linkage, so that no two instruction sets share a function.
#pragma once

#include <cstdint>

namespace mammofm::MAMMOFM_ISA {
namespace {

/// to[j] += sum over i of from[i] * weights[i, j].
inline void accumulate(const float* from, const float* weights, float* to, std::int64_t rows,
                       std::int64_t columns) {
    for (std::int64_t i = 0; i < rows; ++i) {
        const float factor = from[i];
        const float* line = weights + i * columns;
        for (std::int64_t j = 0; j < columns; ++j)
            to[j] += factor * line[j];
    }
}

}  // namespace
}  // namespace mammofm::MAMMOFM_ISA
