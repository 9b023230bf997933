// Attention of all heads: cut into tiles, spread over OpenVINO's threads.
#pragma once

#include <cstdint>

namespace mammofm {

struct TiledAttentionKernel;

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
};

/// Fill `problem.output`. The same input gives the same bits as long as the number of threads and
/// the kernel stay the same. Works on scratch memory of less than 2 MB per thread.
void tiled_attention(const AttentionProblem& problem, const TiledAttentionKernel& kernel);

}  // namespace mammofm
