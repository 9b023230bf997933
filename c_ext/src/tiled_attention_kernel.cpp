// One tile of attention with the online softmax, compiled once per instruction set.
//
// For each block of keys, with running row maxima m and sums l (Milakov and Gimelshein, "Online
// normalizer calculation for softmax", arXiv 1805.02867):
//
//     S  = scale * log2(e) * Q K^T        [rows, keys of the block]
//     m' = max(m, rowmax(S))
//     P  = 2^(S - m')
//     l  = 2^(m - m') * l + rowsum(P)
//     O  = 2^(m - m') * O + P V
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

#include "tiled_attention_common.hpp"

namespace mammofm::MAMMOFM_ISA {
namespace {

constexpr int kPanelRows = kPanelVectors * kLanes;
constexpr int kBlockKeys = kBlockGroups * kGroup;
// Single rows read keys and values from memory: the longer the runs, the better it fetches ahead.
constexpr int kRowBlockKeys = 512;
// Fewer rows than this would leave most lanes of a panel idle.
constexpr int kFewRows = (kPanelRows + 7) / 8;

static_assert(kTileRows % kPanelRows == 0);
static_assert(kRowBlockKeys % kLanes == 0);

/// True if a value of the block is infinite or NaN: such a value makes 0 * value other than 0.
bool has_special_values(const Keys& keys, std::int64_t depth) {
    const Vec zero = Vec::broadcast(0.0f);
    Vec sum = zero;
    for (int i = 0; i < keys.count; ++i) {
        const float* value = keys.value[i];
        std::int64_t d = 0;
        for (; d + kLanes <= depth; d += kLanes)
            sum = fma(Vec::load(value + d), zero, sum);
        if (d < depth)
            sum = fma(Vec::load_partial(value + d, static_cast<int>(depth - d)), zero, sum);
    }
    return !(sum_of_lanes(sum) == 0.0f);
}

// -------------------- many rows: lanes are rows

/// Rows that share vectors, with their running results. Matrices are [.., vectors * kLanes].
struct Panel {
    Rows rows;  // lanes behind them compute on zeros
    int vectors;
    float* query;    // [depth, ..], times scale and log2(e)
    float* output;   // [depth, ..]
    float* maximum;  // [..]
    float* sum;
    float* seen;  // 1: the row saw a key

    int lanes() const { return vectors * kLanes; }
};

/// What is found out about a block's values when a panel asks first.
struct Specials {
    bool known = false, any = false;
};

/// Memory that all panels use in turn.
struct Workspace {
    float* scores;  // [kBlockKeys, lanes of the panel]
    float* first;   // [kPanelRows]: a row sees the block's keys at places first..last
    float* last;
    float* decay;  // [kPanelRows]: 2^(old maximum - new maximum)
};

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
            q[v] = Vec::load(query + (d * kVectors + v) * kLanes);
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
            sum[k][v].store(scores + (k * kVectors + v) * kLanes);
    }
}

/// S of the block. The last group may reach behind the block's keys: it repeats the last key, and
/// nobody reads those scores.
template <int kVectors>
void score(const Panel& panel, std::int64_t depth, const Keys& keys, float* scores) {
    int k = 0;
    for (; k + kGroup <= keys.count; k += kGroup)
        score_group<kVectors>(panel.query, depth, keys.key + k, scores + k * kVectors * kLanes);
    if (k == keys.count)
        return;
    const float* group[kGroup];
    for (int i = 0; i < kGroup; ++i)
        group[i] = keys.key[min(k + i, keys.count - 1)];
    score_group<kVectors>(panel.query, depth, group, scores + k * kVectors * kLanes);
}

/// Scores that a row does not see become -inf, whatever they were.
void hide(const Panel& panel, int count, const Workspace& work) {
    const Vec hidden = Vec::broadcast(-kInfinity), one = Vec::broadcast(1.0f);
    for (int v = 0; v < panel.vectors; ++v) {
        Vec seen = Vec::load(panel.seen + v * kLanes);
        for (int k = 0; k < count; ++k) {
            float* scores = work.scores + k * panel.lanes() + v * kLanes;
            const Mask mask = visible(work.first + v * kLanes, work.last + v * kLanes, k);
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
            maximum = max(Vec::load(work.scores + (k * kVectors + v) * kLanes), maximum);
        reference[v] = finite_reference(maximum);
        sum[v] = Vec::broadcast(0.0f);
        exp2(before - reference[v]).store(work.decay + v * kLanes);
        maximum.store(panel.maximum + v * kLanes);
    }
    for (int k = 0; k < count; ++k) {
        MAMMOFM_UNROLL
        for (int v = 0; v < kVectors; ++v) {
            float* scores = work.scores + (k * kVectors + v) * kLanes;
            const Vec weight = exp2(Vec::load(scores) - reference[v]);
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
void accumulate_columns(const Panel& panel, std::int64_t d, const Keys& keys,
                        const Workspace& work) {
    Vec sum[kColumns][kVectors];
    float* output = panel.output + d * kVectors * kLanes;
    MAMMOFM_UNROLL
    for (int c = 0; c < kColumns; ++c) {
        MAMMOFM_UNROLL
        for (int v = 0; v < kVectors; ++v)
            sum[c][v] = Vec::broadcast(0.0f);
    }
    for (int k = 0; k < keys.count; ++k) {
        const float* value = keys.value[k] + d;
        Vec weight[kVectors];
        MAMMOFM_UNROLL
        for (int v = 0; v < kVectors; ++v)
            weight[v] = Vec::load(work.scores + (k * kVectors + v) * kLanes);
        MAMMOFM_UNROLL
        for (int c = 0; c < kColumns; ++c) {
            const Vec element = Vec::broadcast(value[c]);
            MAMMOFM_UNROLL
            for (int v = 0; v < kVectors; ++v) {
                const Vec added = fma(weight[v], element, sum[c][v]);
                const int lane = v * kLanes;
                sum[c][v] = kGuarded ? select(visible(work.first + lane, work.last + lane, k),
                                              added, sum[c][v])
                                     : added;
            }
        }
    }
    MAMMOFM_UNROLL
    for (int v = 0; v < kVectors; ++v) {
        const Vec decay = Vec::load(work.decay + v * kLanes);
        MAMMOFM_UNROLL
        for (int c = 0; c < kColumns; ++c) {
            float* total = output + (c * kVectors + v) * kLanes;
            fma(decay, Vec::load(total), sum[c][v]).store(total);
        }
    }
}

/// The last `columns` < kColumns + 1 columns.
template <int kVectors, int kColumns, bool kGuarded>
void accumulate_rest(const Panel& panel, std::int64_t d, int columns, const Keys& keys,
                     const Workspace& work) {
    if (columns == kColumns)
        accumulate_columns<kVectors, kColumns, kGuarded>(panel, d, keys, work);
    else if constexpr (kColumns > 1)
        accumulate_rest<kVectors, kColumns - 1, kGuarded>(panel, d, columns, keys, work);
}

/// O = decay * O + P V.
template <int kVectors, bool kGuarded>
void accumulate(const Panel& panel, std::int64_t depth, const Keys& keys, const Workspace& work) {
    std::int64_t d = 0;
    for (; d + kGroup <= depth; d += kGroup)
        accumulate_columns<kVectors, kGroup, kGuarded>(panel, d, keys, work);
    if (d < depth)
        accumulate_rest<kVectors, kGroup - 1, kGuarded>(panel, d, static_cast<int>(depth - d), keys,
                                                        work);
}

/// One block of keys for one panel, of `kVectors` vectors or fewer.
template <int kVectors = kPanelVectors>
void step_panel(const AttentionTile& tile, const Panel& panel, const Keys& block,
                Specials& specials, const Workspace& work) {
    if constexpr (kVectors > 1) {
        if (panel.vectors < kVectors)
            return step_panel<kVectors - 1>(tile, panel, block, specials, work);
    }
    const Span span = seen_by_any(tile, panel.rows, block);
    if (span.first == span.end)
        return;
    const Keys keys = block.part(span.first, span.end);
    const bool all = seen_by_all(tile, panel.rows, keys);
    score<kVectors>(panel, tile.depth, keys, work.scores);
    if (all) {
        fill(panel.seen, panel.lanes(), 1.0f);
    } else {
        find_bounds(tile, panel.rows, keys, panel.lanes(), work.first, work.last);
        hide(panel, keys.count, work);
    }
    exponentiate<kVectors>(panel, keys.count, work);
    if (!all && !specials.known)
        specials = {true, has_special_values(block, tile.depth)};
    if (!all && specials.any)
        accumulate<kVectors, /*kGuarded=*/true>(panel, tile.depth, keys, work);
    else
        accumulate<kVectors, /*kGuarded=*/false>(panel, tile.depth, keys, work);
}

/// `vectors` of rows from `row` of the tile, fewer at its end.
Panel start_panel(const AttentionTile& tile, std::int64_t row, int vectors, float*& memory) {
    Panel panel{};
    panel.rows.count = static_cast<int>(min(vectors * kLanes, tile.rows - row));
    panel.rows.position = tile.position + row;
    panel.vectors = (panel.rows.count + kLanes - 1) / kLanes;
    const int lanes = panel.lanes();
    const std::int64_t matrix = tile.depth * lanes;
    panel.query = memory;
    panel.output = panel.query + matrix;
    panel.maximum = panel.output + matrix;
    panel.sum = panel.maximum + lanes;
    panel.seen = panel.sum + lanes;
    memory = panel.seen + lanes;
    fill(panel.query, 2 * matrix, 0.0f);
    fill(panel.maximum, lanes, -kInfinity);
    fill(panel.sum, 2 * lanes, 0.0f);
    transpose(tile.query + row * tile.depth, panel.rows.count, tile.depth, tile.depth, panel.query,
              lanes);
    const Vec scale = Vec::broadcast(tile.scale * kLog2E);
    for (std::int64_t i = 0; i < matrix; i += kLanes)
        (scale * Vec::load(panel.query + i)).store(panel.query + i);
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
            float* output = panel.output + d * panel.lanes() + v * kLanes;
            select(seen, Vec::load(output) / sum, zero).store(output);
        }
    }
}

/// Write the results of the rows from `row` of the tile.
void finish_panel(const AttentionTile& tile, const Panel& panel, std::int64_t row) {
    if (tile.row_max == nullptr)
        normalise(panel, tile.depth);
    transpose(panel.output, tile.depth, panel.rows.count, panel.lanes(),
              tile.output + row * tile.depth, tile.depth);
    for (int r = 0; r < panel.rows.count && tile.row_max != nullptr; ++r) {
        tile.row_max[row + r] = panel.maximum[r];
        tile.row_sum[row + r] = panel.sum[r];
        tile.row_seen[row + r] = panel.seen[r];
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

    Panel panels[kTileRows / kLanes];
    const int vectors = panel_vectors(tile, kPanelVectors);
    int count = 0;
    for (std::int64_t row = 0; row < tile.rows; row += vectors * kLanes)
        panels[count++] = start_panel(tile, row, vectors, memory);
    // All panels take a block in turn while its keys and values are in the cache.
    KeyBlock<kBlockKeys> block;
    for (std::int64_t cursor = tile.key_begin;;) {
        const Keys keys = block.next(tile, cursor);
        if (keys.count == 0)
            break;
        Specials specials;
        for (int i = 0; i < count; ++i)
            step_panel(tile, panels[i], keys, specials, work);
    }
    for (int i = 0; i < count; ++i)
        finish_panel(tile, panels[i], static_cast<std::int64_t>(i) * vectors * kLanes);
}

// -------------------- few rows: lanes are elements of a row

/// One query row with its running results. Padded rows end on a whole vector.
struct Row {
    std::int64_t position;
    float* query;   // [padded depth], times scale and log2(e), then zeros
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
    for (int k = count; k % kLanes != 0; ++k)
        scores[k] = -kInfinity;
    Vec highest = Vec::broadcast(before);
    for (int k = 0; k < count; k += kLanes)
        highest = max(Vec::load(scores + k), highest);  // NaN loses, as in a > b
    float lanes[kLanes];
    highest.store(lanes);
    for (int i = 0; i < kLanes; ++i)
        row.maximum = lanes[i] > row.maximum ? lanes[i] : row.maximum;
    const Vec reference = finite_reference(Vec::broadcast(row.maximum));
    Vec sum = Vec::broadcast(0.0f);
    for (int k = 0; k < count; k += kLanes) {
        const Vec weight = exp2(Vec::load(scores + k) - reference);
        weight.store(scores + k);
        sum = sum + weight;
    }
    float decay[kLanes];
    exp2(Vec::broadcast(before) - reference).store(decay);
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
void step_row(const AttentionTile& tile, Row& row, const Keys& block) {
    const Span span = seen_by_any(tile, {row.position, 1}, block);
    const int count = span.end - span.first;
    if (count == 0)
        return;
    row.seen = 1.0f;
    const float* const* keys = block.key + span.first;
    const float* const* values = block.value + span.first;
    float scores[kRowBlockKeys];
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
    const std::int64_t length = rounded_up(tile.depth, kLanes);
    Row row{tile.position + r, memory, memory + length, -kInfinity, 0.0f, 0.0f};
    fill(memory, 2 * length, 0.0f);
    for (std::int64_t d = 0; d < tile.depth; ++d)
        row.query[d] = tile.scale * kLog2E * tile.query[r * tile.depth + d];
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
        rows[r] = start_row(tile, r, tile.scratch + 2 * rounded_up(tile.depth, kLanes) * r);
    KeyBlock<kRowBlockKeys> block;
    for (std::int64_t cursor = tile.key_begin;;) {
        const Keys keys = block.next(tile, cursor);
        if (keys.count == 0)
            break;
        for (std::int64_t r = 0; r < tile.rows; ++r)
            step_row(tile, rows[r], keys);
    }
    for (std::int64_t r = 0; r < tile.rows; ++r)
        finish_row(tile, rows[r], r);
}

// -------------------- the interface

std::size_t scratch_floats(std::int64_t depth) {
    const std::int64_t panels = kTileRows * (2 * rounded_up(depth, kLanes) + 3);
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
