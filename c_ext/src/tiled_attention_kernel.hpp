// What the dispatcher and the kernels of every instruction set share. Plain data only: an inline
// function here would be compiled with several sets of flags, and the linker would keep any one.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mammofm {

/// Most query rows of one tile; a multiple of every kernel's panel.
constexpr std::int64_t kTileRows = 192;
/// The same for the INT8 kernel, which rounds all keys anew for every tile.
constexpr std::int64_t kTileRowsInt8 = 576;

/// Longest supported rows of query, key and value, in elements.
constexpr std::int64_t kMaxDepth = 256;

/// Attention of some rows of one head over some of its keys.
///
/// Query row r stands at `position` + r among the keys and sees key j if
/// `position` + r - `behind` <= j <= `position` + r + `ahead` and key_mask[j] is not zero.
struct AttentionTile {
    const float* query;            ///< [rows, depth]
    const float* key;              ///< [keys of the head, depth]
    const float* value;            ///< [keys of the head, depth]
    const std::uint8_t* key_mask;  ///< [keys of the head], or null: all are seen
    std::int64_t rows;             ///< 1..kTileRows, or kTileRowsInt8
    std::int64_t keys;             ///< keys of the head
    std::int64_t depth;            ///< 1..kMaxDepth
    std::int64_t key_begin;        ///< only keys in [key_begin, key_end) are looked at
    std::int64_t key_end;
    std::int64_t position;
    std::int64_t behind;
    std::int64_t ahead;
    float scale;  ///< multiplies the products of query and key; scores are these times log2(e)

    float* output;  ///< [rows, depth]
    /// Null: `output` is final. Else `output` is the sum of 2^(score - row_max) * value, and the
    /// rest of what it takes to merge it with the same rows over other keys goes here.
    float* row_max;   ///< [rows], -inf if there is no score above it
    float* row_sum;   ///< [rows], sum of 2^(score - row_max)
    float* row_seen;  ///< [rows], 1 if the row sees any of the keys, else 0

    float* scratch;  ///< scratch_floats(depth) elements of the kernel, aligned to 64 bytes
};

/// The kernel of one instruction set. It trusts its arguments.
struct TiledAttentionKernel {
    std::size_t (*scratch_floats)(std::int64_t depth);
    void (*attend)(const AttentionTile& tile);
};

/// The same with INT8 products. Its scores differ from those of the other kernel by a constant per
/// row: partial results of the two cannot be merged.
struct TiledAttentionInt8Kernel {
    std::size_t (*scratch_floats)(std::int64_t depth);
    /// False: NaN, infinities or overlarge values stand in the way; the output means nothing.
    bool (*attend)(const AttentionTile& tile);
    bool pays;  ///< whether it is faster than the float32 kernel
};

namespace portable {
extern const TiledAttentionKernel tiled_attention_kernel;
extern const TiledAttentionInt8Kernel tiled_attention_int8_kernel;
}  // namespace portable
namespace avx2 {
extern const TiledAttentionKernel tiled_attention_kernel;
extern const TiledAttentionInt8Kernel tiled_attention_int8_kernel;
}  // namespace avx2
namespace avx512 {
extern const TiledAttentionKernel tiled_attention_kernel;
extern const TiledAttentionInt8Kernel tiled_attention_int8_kernel;
}  // namespace avx512
namespace avx512_vnni {
extern const TiledAttentionKernel tiled_attention_kernel;
extern const TiledAttentionInt8Kernel tiled_attention_int8_kernel;
}  // namespace avx512_vnni

}  // namespace mammofm
