// One tile of attention with the online softmax, compiled once per instruction set.
//
// For each block of keys, with running row maxima m and sums l (Milakov and Gimelshein, "Online
// normalizer calculation for softmax", arXiv 1805.02867):
//
//     S  = scale * Q K^T                  [rows, keys of the block]
//     m' = max(m, rowmax(S))
//     P  = exp(S - m')
//     l  = exp(m - m') * l + rowsum(P)
//     O  = exp(m - m') * O + P V
//
// A block's sums start at zero and join the running ones at its end: thousands of small weights
// added one by one to a large sum would be rounded away.
//
// Many rows: the lanes of a vector are query rows ("panel"). Q, S, P and O are then held
// transposed, every operand of K and V is one float that is broadcast, K and V are read as they lie
// in memory, and maxima and sums need no work across lanes. Few rows: the lanes are elements of a
// row instead.
//
// No header of the standard library with inline functions is included and all helpers are in
// unnamed namespaces: a shared inline function would exist once per instruction set under one name,
// and the linker would give any of them to all.

#include "tiled_attention_kernel.hpp"

#include MAMMOFM_VEC_HEADER

#define MAMMOFM_UNROLL _Pragma("GCC unroll 8")

namespace mammofm::MAMMOFM_ISA {
namespace {

constexpr int kLanes = Vec::kLanes;
constexpr int kPanelRows = kPanelVectors * kLanes;
// A block's scores, keys and values together stay near the L1 cache at depth 64.
constexpr int kBlockKeys = 64 / kGroup * kGroup;
constexpr int kPaddedKeys = (kBlockKeys + kLanes - 1) / kLanes * kLanes;
// Fewer rows than this would leave most lanes of a panel idle.
constexpr int kFewRows = kPanelRows / 8;
constexpr float kInfinity = __builtin_inff();

static_assert(kTileRows % kPanelRows == 0);

std::int64_t min(std::int64_t a, std::int64_t b) {
    return a < b ? a : b;
}

std::int64_t padded(std::int64_t depth) {
    return (depth + kLanes - 1) / kLanes * kLanes;
}

void fill(float* to, std::int64_t count, float value) {
    for (std::int64_t i = 0; i < count; ++i)
        to[i] = value;
}

/// exp(x) for x <= 0; 0 below -87, NaN for NaN. Relative error below 2e-7.
///
/// Range reduction and polynomial of expf in the Cephes library 2.8 (S. L. Moshier),
/// netlib.org/cephes, single/expf.c: exp(x) = 2^n exp(r), r = x - n ln 2, with ln 2 in two parts.
inline Vec exp(Vec x) {
    const Vec lowest = Vec::broadcast(-87.0f);      // above: 2^n is a normal number
    const Vec shift = Vec::broadcast(12582912.0f);  // 1.5 * 2^23: the sum rounds to whole numbers
    const Vec bounded = max(lowest, x);             // this order keeps NaN
    const Vec shifted = fma(bounded, Vec::broadcast(1.44269504088896341f), shift);
    const Vec n = shifted - shift;
    Vec r = fma(n, Vec::broadcast(-0.693359375f), bounded);
    r = fma(n, Vec::broadcast(2.12194440e-4f), r);
    Vec p = Vec::broadcast(1.9875691500e-4f);
    p = fma(p, r, Vec::broadcast(1.3981999507e-3f));
    p = fma(p, r, Vec::broadcast(8.3334519073e-3f));
    p = fma(p, r, Vec::broadcast(4.1665795894e-2f));
    p = fma(p, r, Vec::broadcast(1.6666665459e-1f));
    p = fma(p, r, Vec::broadcast(5.0000001201e-1f));
    p = fma(p, r * r, r) + Vec::broadcast(1.0f);
    return select(x < lowest, Vec::broadcast(0.0f), p * exp2_of_shifted(shifted));
}

/// What to subtract from scores: their maximum, or anything finite where no score is above -inf.
inline Vec finite_reference(Vec maximum) {
    return select(maximum == Vec::broadcast(-kInfinity), Vec::broadcast(0.0f), maximum);
}

// -------------------- the keys of a block

/// The next keys that key_mask lets through. Keys that it hides are never read.
struct KeyBlock {
    int count;
    std::int64_t index[kBlockKeys];  // ascending
    const float* key[kBlockKeys];
    const float* value[kBlockKeys];
};

/// Fill `block` from the keys at `cursor` and after, and move `cursor` behind them. False: no more.
bool next_block(const AttentionTile& tile, std::int64_t& cursor, KeyBlock& block) {
    block.count = 0;
    for (; cursor < tile.key_end && block.count < kBlockKeys; ++cursor) {
        if (tile.key_mask != nullptr && tile.key_mask[cursor] == 0)
            continue;
        block.index[block.count] = cursor;
        block.key[block.count] = tile.key + cursor * tile.depth;
        block.value[block.count] = tile.value + cursor * tile.depth;
        ++block.count;
    }
    return block.count > 0;
}

/// True if a value of the block is infinite or NaN: such a value makes 0 * value other than 0.
bool has_special_values(const KeyBlock& block, std::int64_t depth) {
    const Vec zero = Vec::broadcast(0.0f);
    Vec sum = zero;
    for (int i = 0; i < block.count; ++i) {
        const float* value = block.value[i];
        std::int64_t d = 0;
        for (; d + kLanes <= depth; d += kLanes)
            sum = fma(Vec::load(value + d), zero, sum);
        if (d < depth)
            sum = fma(Vec::load_partial(value + d, static_cast<int>(depth - d)), zero, sum);
    }
    return !(sum_of_lanes(sum) == 0.0f);
}

// -------------------- many rows: lanes are rows

/// Rows that share vectors, with their running results. Matrices are [.., kPanelRows].
struct Panel {
    int rows;               // 1..kPanelRows; lanes behind them compute on zeros
    int vectors;            // that hold rows
    std::int64_t position;  // of the first row, among the keys
    float* query;           // [depth, kPanelRows], times scale
    float* output;          // [depth, kPanelRows]
    float* maximum;         // [kPanelRows]
    float* sum;
    float* seen;  // 1: the row saw a key
};

/// Memory that all panels use in turn.
struct Workspace {
    float* scores;  // [kBlockKeys, kPanelRows]
    float* first;   // [kPanelRows]: a row sees the block's keys at places first..last
    float* last;
    float* decay;  // [kPanelRows]: exp(old maximum - new maximum)
};

enum class Visibility { kNone, kSome, kAll };

Visibility visibility(const AttentionTile& tile, const Panel& panel, const KeyBlock& block) {
    const std::int64_t first_row = panel.position, last_row = panel.position + panel.rows - 1;
    const std::int64_t first_key = block.index[0], last_key = block.index[block.count - 1];
    if (last_key < first_row - tile.behind || first_key > last_row + tile.ahead)
        return Visibility::kNone;
    if (first_key >= last_row - tile.behind && last_key <= first_row + tile.ahead)
        return Visibility::kAll;
    return Visibility::kSome;
}

/// Places in the block that each row sees. Both ends only grow from row to row.
void find_bounds(const AttentionTile& tile, const Panel& panel, const KeyBlock& block,
                 const Workspace& work) {
    int first = 0, end = 0;
    for (int r = 0; r < kPanelRows; ++r) {
        const std::int64_t position = panel.position + min(r, panel.rows - 1);
        while (first < block.count && block.index[first] < position - tile.behind)
            ++first;
        while (end < block.count && block.index[end] <= position + tile.ahead)
            ++end;
        work.first[r] = static_cast<float>(first);
        work.last[r] = static_cast<float>(end - 1);
    }
}

inline Mask visible(const Workspace& work, int place, int vector) {
    const Vec at = Vec::broadcast(static_cast<float>(place));
    return (Vec::load(work.first + vector * kLanes) <= at) &
           (at <= Vec::load(work.last + vector * kLanes));
}

/// Scores of kGroup keys.
template <int kVectors>
void score_group(const float* query, std::int64_t depth, const float* const* keys, float* scores) {
    Vec sum[kGroup][kVectors];
    const float* key[kGroup];
    MAMMOFM_UNROLL
    for (int k = 0; k < kGroup; ++k) {
        key[k] = keys[k];
        MAMMOFM_UNROLL
        for (int v = 0; v < kVectors; ++v)
            sum[k][v] = Vec::broadcast(0.0f);
    }
    for (std::int64_t d = 0; d < depth; ++d) {
        Vec q[kVectors];
        MAMMOFM_UNROLL
        for (int v = 0; v < kVectors; ++v)
            q[v] = Vec::load(query + d * kPanelRows + v * kLanes);
        MAMMOFM_UNROLL
        for (int k = 0; k < kGroup; ++k) {
            const Vec element = Vec::broadcast(key[k][d]);
            MAMMOFM_UNROLL
            for (int v = 0; v < kVectors; ++v)
                sum[k][v] = fma(q[v], element, sum[k][v]);
        }
    }
    MAMMOFM_UNROLL
    for (int k = 0; k < kGroup; ++k) {
        MAMMOFM_UNROLL
        for (int v = 0; v < kVectors; ++v)
            sum[k][v].store(scores + k * kPanelRows + v * kLanes);
    }
}

/// S of the block. The last group may reach behind the block's keys: it repeats the last key, and
/// nobody reads those scores.
template <int kVectors>
void score(const Panel& panel, std::int64_t depth, const KeyBlock& block, float* scores) {
    int k = 0;
    for (; k + kGroup <= block.count; k += kGroup)
        score_group<kVectors>(panel.query, depth, block.key + k, scores + k * kPanelRows);
    if (k == block.count)
        return;
    const float* keys[kGroup];
    for (int i = 0; i < kGroup; ++i)
        keys[i] = block.key[min(k + i, block.count - 1)];
    score_group<kVectors>(panel.query, depth, keys, scores + k * kPanelRows);
}

/// Scores that a row does not see become -inf, whatever they were.
void hide(const Panel& panel, int count, const Workspace& work) {
    const Vec hidden = Vec::broadcast(-kInfinity), one = Vec::broadcast(1.0f);
    for (int v = 0; v < panel.vectors; ++v) {
        Vec seen = Vec::load(panel.seen + v * kLanes);
        for (int k = 0; k < count; ++k) {
            float* scores = work.scores + k * kPanelRows + v * kLanes;
            const Mask mask = visible(work, k, v);
            select(mask, Vec::load(scores), hidden).store(scores);
            seen = select(mask, one, seen);
        }
        seen.store(panel.seen + v * kLanes);
    }
}

/// P from S in place; running maxima and sums move on.
template <int kVectors>
void exponentiate(const Panel& panel, int count, const Workspace& work) {
    Vec reference[kVectors], sum[kVectors];
    MAMMOFM_UNROLL
    for (int v = 0; v < kVectors; ++v) {
        const Vec before = Vec::load(panel.maximum + v * kLanes);
        Vec maximum = before;
        for (int k = 0; k < count; ++k)
            maximum = max(Vec::load(work.scores + k * kPanelRows + v * kLanes), maximum);
        reference[v] = finite_reference(maximum);
        const Vec decay = exp(before - reference[v]);
        sum[v] = Vec::broadcast(0.0f);
        decay.store(work.decay + v * kLanes);
        maximum.store(panel.maximum + v * kLanes);
    }
    for (int k = 0; k < count; ++k) {
        MAMMOFM_UNROLL
        for (int v = 0; v < kVectors; ++v) {
            float* scores = work.scores + k * kPanelRows + v * kLanes;
            const Vec weight = exp(Vec::load(scores) - reference[v]);
            weight.store(scores);
            sum[v] = sum[v] + weight;
        }
    }
    MAMMOFM_UNROLL
    for (int v = 0; v < kVectors; ++v) {
        float* total = panel.sum + v * kLanes;
        fma(Vec::load(work.decay + v * kLanes), Vec::load(total), sum[v]).store(total);
    }
}

/// O of kColumns columns from column d. kGuarded: a weight of 0 also wins over NaN and infinities,
/// which only matters where a row does not see a key that its neighbours see.
template <int kVectors, int kColumns, bool kGuarded>
void accumulate_columns(const Panel& panel, std::int64_t d, const KeyBlock& block,
                        const Workspace& work) {
    Vec sum[kColumns][kVectors];
    float* output = panel.output + d * kPanelRows;
    MAMMOFM_UNROLL
    for (int v = 0; v < kVectors; ++v) {
        MAMMOFM_UNROLL
        for (int c = 0; c < kColumns; ++c)
            sum[c][v] = Vec::broadcast(0.0f);
    }
    for (int k = 0; k < block.count; ++k) {
        const float* value = block.value[k] + d;
        Vec weight[kVectors];
        MAMMOFM_UNROLL
        for (int v = 0; v < kVectors; ++v)
            weight[v] = Vec::load(work.scores + k * kPanelRows + v * kLanes);
        MAMMOFM_UNROLL
        for (int c = 0; c < kColumns; ++c) {
            const Vec element = Vec::broadcast(value[c]);
            MAMMOFM_UNROLL
            for (int v = 0; v < kVectors; ++v) {
                const Vec added = fma(weight[v], element, sum[c][v]);
                sum[c][v] = kGuarded ? select(visible(work, k, v), added, sum[c][v]) : added;
            }
        }
    }
    MAMMOFM_UNROLL
    for (int v = 0; v < kVectors; ++v) {
        const Vec decay = Vec::load(work.decay + v * kLanes);
        MAMMOFM_UNROLL
        for (int c = 0; c < kColumns; ++c) {
            float* total = output + c * kPanelRows + v * kLanes;
            fma(decay, Vec::load(total), sum[c][v]).store(total);
        }
    }
}

/// The last `columns` < kColumns + 1 columns.
template <int kVectors, int kColumns, bool kGuarded>
void accumulate_rest(const Panel& panel, std::int64_t d, int columns, const KeyBlock& block,
                     const Workspace& work) {
    if (columns == kColumns)
        accumulate_columns<kVectors, kColumns, kGuarded>(panel, d, block, work);
    else if constexpr (kColumns > 1)
        accumulate_rest<kVectors, kColumns - 1, kGuarded>(panel, d, columns, block, work);
}

/// O = decay * O + P V.
template <int kVectors, bool kGuarded>
void accumulate(const Panel& panel, std::int64_t depth, const KeyBlock& block,
                const Workspace& work) {
    std::int64_t d = 0;
    for (; d + kGroup <= depth; d += kGroup)
        accumulate_columns<kVectors, kGroup, kGuarded>(panel, d, block, work);
    if (d < depth)
        accumulate_rest<kVectors, kGroup - 1, kGuarded>(panel, d, static_cast<int>(depth - d),
                                                        block, work);
}

/// One block of keys for one panel, whose rows fill `kVectors` vectors or fewer.
template <int kVectors = kPanelVectors>
void step_panel(const AttentionTile& tile, const Panel& panel, const KeyBlock& block,
                const Workspace& work) {
    if constexpr (kVectors > 1) {
        if (panel.vectors < kVectors)
            return step_panel<kVectors - 1>(tile, panel, block, work);
    }
    const Visibility seen = visibility(tile, panel, block);
    if (seen == Visibility::kNone)
        return;
    score<kVectors>(panel, tile.depth, block, work.scores);
    if (seen == Visibility::kSome) {
        find_bounds(tile, panel, block, work);
        hide(panel, block.count, work);
    } else {
        fill(panel.seen, kPanelRows, 1.0f);
    }
    exponentiate<kVectors>(panel, block.count, work);
    if (seen == Visibility::kSome && has_special_values(block, tile.depth))
        accumulate<kVectors, /*kGuarded=*/true>(panel, tile.depth, block, work);
    else
        accumulate<kVectors, /*kGuarded=*/false>(panel, tile.depth, block, work);
}

Panel start_panel(const AttentionTile& tile, std::int64_t row, float*& memory) {
    Panel panel{};
    panel.rows = static_cast<int>(min(kPanelRows, tile.rows - row));
    panel.vectors = (panel.rows + kLanes - 1) / kLanes;
    panel.position = tile.position + row;
    const std::int64_t matrix = tile.depth * kPanelRows;
    panel.query = memory;
    panel.output = panel.query + matrix;
    panel.maximum = panel.output + matrix;
    panel.sum = panel.maximum + kPanelRows;
    panel.seen = panel.sum + kPanelRows;
    memory = panel.seen + kPanelRows;
    fill(panel.query, 2 * matrix, 0.0f);
    fill(panel.maximum, kPanelRows, -kInfinity);
    fill(panel.sum, 2 * kPanelRows, 0.0f);
    for (int r = 0; r < panel.rows; ++r) {
        const float* query = tile.query + (row + r) * tile.depth;
        for (std::int64_t d = 0; d < tile.depth; ++d)
            panel.query[d * kPanelRows + r] = tile.scale * query[d];
    }
    return panel;
}

/// Divide by the sums. A row that saw keys with a sum of 0 had only scores of -inf: 0 / 0 is the
/// NaN that softmax gives there. A row that saw none gets zeros.
void normalise(const Panel& panel, std::int64_t depth) {
    const Vec zero = Vec::broadcast(0.0f);
    for (int v = 0; v < panel.vectors; ++v) {
        const Vec sum = Vec::load(panel.sum + v * kLanes);
        const Mask seen = zero < Vec::load(panel.seen + v * kLanes);
        for (std::int64_t d = 0; d < depth; ++d) {
            float* output = panel.output + d * kPanelRows + v * kLanes;
            select(seen, Vec::load(output) / sum, zero).store(output);
        }
    }
}

void finish_panel(const AttentionTile& tile, const Panel& panel, std::int64_t row) {
    if (tile.row_max == nullptr)
        normalise(panel, tile.depth);
    for (int r = 0; r < panel.rows; ++r) {
        float* output = tile.output + (row + r) * tile.depth;
        for (std::int64_t d = 0; d < tile.depth; ++d)
            output[d] = panel.output[d * kPanelRows + r];
        if (tile.row_max != nullptr) {
            tile.row_max[row + r] = panel.maximum[r];
            tile.row_sum[row + r] = panel.sum[r];
            tile.row_seen[row + r] = panel.seen[r];
        }
    }
}

void attend_panels(const AttentionTile& tile) {
    float* memory = tile.scratch;
    Workspace work{};
    work.scores = memory;
    work.first = work.scores + kBlockKeys * kPanelRows;
    work.last = work.first + kPanelRows;
    work.decay = work.last + kPanelRows;
    memory = work.decay + kPanelRows;

    Panel panels[kTileRows / kPanelRows];
    int count = 0;
    for (std::int64_t row = 0; row < tile.rows; row += kPanelRows)
        panels[count++] = start_panel(tile, row, memory);
    // All panels take a block in turn while its keys and values are in the cache.
    KeyBlock block;
    for (std::int64_t cursor = tile.key_begin; next_block(tile, cursor, block);) {
        for (int i = 0; i < count; ++i)
            step_panel(tile, panels[i], block, work);
    }
    for (int i = 0; i < count; ++i)
        finish_panel(tile, panels[i], static_cast<std::int64_t>(i) * kPanelRows);
}

// -------------------- few rows: lanes are elements of a row

/// One query row with its running results. Padded rows end on a whole vector.
struct Row {
    std::int64_t position;
    float* query;   // [padded depth], times scale, then zeros
    float* output;  // [padded depth]
    float maximum, sum, seen;
};

/// Products of one query with kKeys keys.
template <int kKeys>
void score_row(const float* query, std::int64_t depth, const float* const* keys, float* scores) {
    Vec sum[kKeys];
    MAMMOFM_UNROLL
    for (int k = 0; k < kKeys; ++k)
        sum[k] = Vec::broadcast(0.0f);
    std::int64_t d = 0;
    for (; d + kLanes <= depth; d += kLanes) {
        const Vec q = Vec::load(query + d);
        MAMMOFM_UNROLL
        for (int k = 0; k < kKeys; ++k)
            sum[k] = fma(q, Vec::load(keys[k] + d), sum[k]);
    }
    if (d < depth) {
        const Vec q = Vec::load(query + d);
        MAMMOFM_UNROLL
        for (int k = 0; k < kKeys; ++k)
            sum[k] = fma(q, Vec::load_partial(keys[k] + d, static_cast<int>(depth - d)), sum[k]);
    }
    MAMMOFM_UNROLL
    for (int k = 0; k < kKeys; ++k)
        scores[k] = sum_of_lanes(sum[k]);
}

/// P from `count` scores in place; the running maximum and sum move on. Returns the decay.
float exponentiate_row(Row& row, float* scores, int count) {
    const float before = row.maximum;
    for (int k = 0; k < count; ++k)
        row.maximum = scores[k] > row.maximum ? scores[k] : row.maximum;
    const Vec reference = finite_reference(Vec::broadcast(row.maximum));
    for (int k = count; k % kLanes != 0; ++k)
        scores[k] = -kInfinity;
    Vec sum = Vec::broadcast(0.0f);
    for (int k = 0; k < count; k += kLanes) {
        const Vec weight = exp(Vec::load(scores + k) - reference);
        weight.store(scores + k);
        sum = sum + weight;
    }
    float decay[kLanes];
    exp(Vec::broadcast(before) - reference).store(decay);
    row.sum = decay[0] * row.sum + sum_of_lanes(sum);
    return decay[0];
}

/// O = decay * O + P V for kVectors vectors from element d.
template <int kVectors>
void accumulate_row(const Row& row, std::int64_t d, float decay, const float* weights,
                    const float* const* values, int count) {
    Vec sum[kVectors];
    MAMMOFM_UNROLL
    for (int v = 0; v < kVectors; ++v)
        sum[v] = Vec::broadcast(0.0f);
    for (int k = 0; k < count; ++k) {
        const Vec weight = Vec::broadcast(weights[k]);
        MAMMOFM_UNROLL
        for (int v = 0; v < kVectors; ++v)
            sum[v] = fma(weight, Vec::load(values[k] + d + v * kLanes), sum[v]);
    }
    MAMMOFM_UNROLL
    for (int v = 0; v < kVectors; ++v) {
        float* total = row.output + d + v * kLanes;
        fma(Vec::broadcast(decay), Vec::load(total), sum[v]).store(total);
    }
}

/// The same for the last elements, which do not fill a vector.
void accumulate_row_rest(const Row& row, std::int64_t d, int elements, float decay,
                         const float* weights, const float* const* values, int count) {
    Vec sum = Vec::broadcast(0.0f);
    for (int k = 0; k < count; ++k)
        sum = fma(Vec::broadcast(weights[k]), Vec::load_partial(values[k] + d, elements), sum);
    float* total = row.output + d;
    fma(Vec::broadcast(decay), Vec::load(total), sum).store(total);
}

/// One block of keys for one row.
void step_row(const AttentionTile& tile, Row& row, const KeyBlock& block) {
    int first = 0, end = block.count;
    while (first < end && block.index[first] < row.position - tile.behind)
        ++first;
    while (end > first && block.index[end - 1] > row.position + tile.ahead)
        --end;
    const int count = end - first;
    if (count == 0)
        return;
    row.seen = 1.0f;
    const float* const* keys = block.key + first;
    const float* const* values = block.value + first;
    float scores[kPaddedKeys];
    int k = 0;
    for (; k + 4 <= count; k += 4)
        score_row<4>(row.query, tile.depth, keys + k, scores + k);
    for (; k < count; ++k)
        score_row<1>(row.query, tile.depth, keys + k, scores + k);
    const float decay = exponentiate_row(row, scores, count);
    std::int64_t d = 0;
    for (; d + 4 * kLanes <= tile.depth; d += 4 * kLanes)
        accumulate_row<4>(row, d, decay, scores, values, count);
    for (; d + kLanes <= tile.depth; d += kLanes)
        accumulate_row<1>(row, d, decay, scores, values, count);
    if (d < tile.depth)
        accumulate_row_rest(row, d, static_cast<int>(tile.depth - d), decay, scores, values, count);
}

Row start_row(const AttentionTile& tile, std::int64_t r, float* memory) {
    const std::int64_t length = padded(tile.depth);
    Row row{tile.position + r, memory, memory + length, -kInfinity, 0.0f, 0.0f};
    fill(memory, 2 * length, 0.0f);
    for (std::int64_t d = 0; d < tile.depth; ++d)
        row.query[d] = tile.scale * tile.query[r * tile.depth + d];
    return row;
}

void finish_row(const AttentionTile& tile, const Row& row, std::int64_t r) {
    const bool partial = tile.row_max != nullptr;
    const float divisor = partial || row.seen == 0.0f ? 1.0f : row.sum;  // as in normalise()
    for (std::int64_t d = 0; d < tile.depth; ++d)
        tile.output[r * tile.depth + d] = row.output[d] / divisor;
    if (partial) {
        tile.row_max[r] = row.maximum;
        tile.row_sum[r] = row.sum;
        tile.row_seen[r] = row.seen;
    }
}

void attend_rows(const AttentionTile& tile) {
    Row rows[kFewRows];
    for (std::int64_t r = 0; r < tile.rows; ++r)
        rows[r] = start_row(tile, r, tile.scratch + 2 * padded(tile.depth) * r);
    KeyBlock block;
    for (std::int64_t cursor = tile.key_begin; next_block(tile, cursor, block);) {
        for (std::int64_t r = 0; r < tile.rows; ++r)
            step_row(tile, rows[r], block);
    }
    for (std::int64_t r = 0; r < tile.rows; ++r)
        finish_row(tile, rows[r], r);
}

// -------------------- the interface

std::size_t scratch_floats(std::int64_t depth) {
    const std::int64_t panels = kTileRows * (2 * padded(depth) + 3);
    const std::int64_t workspace = (kBlockKeys + 3) * kPanelRows;
    return static_cast<std::size_t>(panels + workspace);
}

void attend(const AttentionTile& tile) {
    if (tile.rows <= kFewRows)
        attend_rows(tile);
    else
        attend_panels(tile);
}

}  // namespace

extern const TiledAttentionKernel tiled_attention_kernel = {scratch_floats, attend};

}  // namespace mammofm::MAMMOFM_ISA
