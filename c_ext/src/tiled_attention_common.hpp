// What the float32 and the INT8 kernel of one instruction set share: the keys of a block, and who
// sees them. Included by kernel sources only, after their vectors; like those it has internal
// linkage, so that no two instruction sets share a function.
#pragma once

#include "exp2.hpp"
#include "tiled_attention_kernel.hpp"

#define MAMMOFM_UNROLL _Pragma("GCC unroll 16")

namespace mammofm::MAMMOFM_ISA {
namespace {

constexpr int kLanes = Vec::kLanes;
constexpr float kInfinity = __builtin_inff();
constexpr float kLog2E = 1.44269504088896341f;

inline std::int64_t min(std::int64_t a, std::int64_t b) {
    return a < b ? a : b;
}

inline std::int64_t max(std::int64_t a, std::int64_t b) {
    return a > b ? a : b;
}

inline std::int64_t rounded_up(std::int64_t count, std::int64_t to) {
    return (count + to - 1) / to * to;
}

inline void fill(float* to, std::int64_t count, float value) {
    for (std::int64_t i = 0; i < count; ++i)
        to[i] = value;
}

/// to[c * to_stride + r] = from[r * from_stride + c].
inline void transpose(const float* from, std::int64_t rows, std::int64_t columns,
                      std::int64_t from_stride, float* to, std::int64_t to_stride) {
    for (std::int64_t r = 0; r < rows; r += kLanes) {
        for (std::int64_t c = 0; c < columns; c += kLanes) {
            const float* source = from + r * from_stride + c;
            float* target = to + c * to_stride + r;
            if (r + kLanes <= rows && c + kLanes <= columns) {
                transpose_block(source, from_stride, target, to_stride);
                continue;
            }
            for (std::int64_t i = 0; i < min(kLanes, rows - r); ++i) {
                for (std::int64_t j = 0; j < min(kLanes, columns - c); ++j)
                    target[j * to_stride + i] = source[i * from_stride + j];
            }
        }
    }
}

/// What to subtract from scores: their maximum, or anything finite where no score is above -inf.
inline Vec finite_reference(Vec maximum) {
    return select(maximum == Vec::broadcast(-kInfinity), Vec::broadcast(0.0f), maximum);
}

// -------------------- the keys of a block

/// Some keys that key_mask lets through.
struct Keys {
    int count;
    const std::int64_t* index;  // ascending
    const float* const* key;
    const float* const* value;

    Keys part(int first, int end) const {
        return {end - first, index + first, key + first, value + first};
    }
};

/// Room for the next keys of a tile. Keys that key_mask hides are never read.
template <int kCapacity>
class KeyBlock {
  public:
    /// Take keys at `cursor` and after it, and move it behind them. None are left: count is 0.
    Keys next(const AttentionTile& tile, std::int64_t& cursor) {
        int count = 0;
        for (; cursor < tile.key_end && count < kCapacity; ++cursor) {
            if (tile.key_mask != nullptr && tile.key_mask[cursor] == 0)
                continue;
            m_index[count] = cursor;
            m_key[count] = tile.key + cursor * tile.depth;
            m_value[count] = tile.value + cursor * tile.depth;
            ++count;
        }
        return {count, m_index, m_key, m_value};
    }

  private:
    std::int64_t m_index[kCapacity];
    const float* m_key[kCapacity];
    const float* m_value[kCapacity];
};

// -------------------- which rows see which keys

/// Rows of a tile that are neighbours.
struct Rows {
    std::int64_t position;  // of the first, among the keys
    int count;
};

struct Span {
    int first, end;
};

/// The places of `keys` that any of the rows sees.
inline Span seen_by_any(const AttentionTile& tile, const Rows& rows, const Keys& keys) {
    const std::int64_t lowest = rows.position - tile.behind;
    const std::int64_t highest = rows.position + rows.count - 1 + tile.ahead;
    Span span{0, keys.count};
    while (span.first < span.end && keys.index[span.first] < lowest)
        ++span.first;
    while (span.end > span.first && keys.index[span.end - 1] > highest)
        --span.end;
    return span;
}

/// True if every row sees each of the keys, of which there is one at least.
inline bool seen_by_all(const AttentionTile& tile, const Rows& rows, const Keys& keys) {
    return keys.index[0] >= rows.position + rows.count - 1 - tile.behind &&
           keys.index[keys.count - 1] <= rows.position + tile.ahead;
}

/// Places in `keys` that each of `lanes` rows sees: first[r]..last[r]. Both only grow from row to
/// row. Lanes behind the last row are as that row.
inline void find_bounds(const AttentionTile& tile, const Rows& rows, const Keys& keys, int lanes,
                        float* first, float* last) {
    int begin = 0, end = 0;
    for (int r = 0; r < lanes; ++r) {
        const std::int64_t position = rows.position + min(r, rows.count - 1);
        while (begin < keys.count && keys.index[begin] < position - tile.behind)
            ++begin;
        while (end < keys.count && keys.index[end] <= position + tile.ahead)
            ++end;
        first[r] = static_cast<float>(begin);
        last[r] = static_cast<float>(end - 1);
    }
}

/// True where first <= place <= last.
inline Mask visible(const float* first, const float* last, int place) {
    const Vec at = Vec::broadcast(static_cast<float>(place));
    return (Vec::load(first) <= at) & (at <= Vec::load(last));
}

/// Rows that share vectors. Where every row sees few keys, wide panels would compute mostly what no
/// row sees.
inline int panel_vectors(const AttentionTile& tile, int most) {
    const std::int64_t seen = tile.behind + tile.ahead + 1;
    return seen < 16 * most * kLanes ? 1 : most;
}

}  // namespace
}  // namespace mammofm::MAMMOFM_ISA
