// Attention of all heads: cut into tiles, spread over OpenVINO's threads.
#pragma once

#include <cstdint>

namespace mammofm {

struct InstructionSet;

/// Arguments as the operation has them (tiled_attention_op.hpp); all tensors are dense.
struct AttentionProblem {
    const float* query;            ///< [batch, heads, queries, depth]
    const float* key;              ///< [batch, heads, keys, depth]
    const float* value;            ///< [batch, heads, keys, depth]
    const std::uint8_t* key_mask;  ///< [batch, keys], or null
    float* output;                 ///< [batch, heads, queries, depth]
    std::int64_t batch, heads, queries, keys, depth;
    bool causal;
    std::int64_t window;  ///< -1: unlimited
    float scale;
    bool int8;  ///< INT8 products; few queries are computed in float32 all the same
};

/// Fill `problem.output`. The same input gives the same bits as long as the number of threads and
/// the kernels stay the same. Works on scratch memory of less than 2 MB per thread, which is kept:
/// further calls of the same size allocate nothing. Where NaN, infinities or values beyond 1e15
/// keep the INT8 kernel from its work, the float32 kernel does all of it.
void tiled_attention(const AttentionProblem& problem, const InstructionSet& kernels);

}  // namespace mammofm
