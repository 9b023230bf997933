// One tile of attention with INT8 products, compiled once per instruction set.
//
// After SageAttention (Zhang et al., arXiv 2410.02367): softmax does not change when one vector is
// taken from all keys, so keys lose their mean and with it most of their size; then every query
// and every key is rounded to INT8 with a scale of its own. Weights are rounded to 0..255 in units
// of the largest of their row in a block of keys, values to INT8 around the middle of what each
// column holds in the block. Sums within a block are exact integers; maxima, sums over blocks and
// powers are float32, as in tiled_attention_kernel.cpp, whose layout this has: lanes are query
// rows. The sum of a row is that of its rounded weights, so that they average without bias.
//
// Four neighbours along the sum share a lane, for dot_bytes: query [depth / 4, rows, 4], keys
// [keys, depth], weights [keys / 4, rows, 4], values [keys / 4, depth, 4]. dot_bytes wants one side
// unsigned: queries carry 128, and what it adds is taken off each key's products at the start.

#include "tiled_attention_kernel.hpp"

#include MAMMOFM_VEC_HEADER

#if defined(__AVX512BW__)
#    include "ints_avx512.hpp"
#elif defined(__AVX2__)
#    include "ints_avx2.hpp"
#else
#    include "ints_portable.hpp"
#endif

#include "tiled_attention_common.hpp"

namespace mammofm::MAMMOFM_ISA {
namespace {

constexpr int kPack = 4;  // bytes of a lane
constexpr int kPanelRows = kIntPanelVectors * kLanes;
constexpr int kBlockKeys = kIntBlockGroups * kIntGroup;
// Scores exist for whole groups, weights for whole lanes.
constexpr int kWhole = kIntGroup % kPack == 0 ? kIntGroup : kPack;
// A mean of this many keys takes off what keys have in common as well as the mean of all.
constexpr std::int64_t kSampledKeys = 256;
// Beyond it products of four values may overflow; NaN and infinities are beyond it too.
constexpr float kLargest = 1e15f;
// Less is rounded to 0: its scale might not be a normal number.
constexpr float kSmallest = 1e-30f;

static_assert(kTileRowsInt8 % kPanelRows == 0);
static_assert(kWhole % kIntGroup == 0 && kBlockKeys % kWhole == 0 && kLanes % kPack == 0);

// -------------------- memory

struct Memory {
    std::uintptr_t next;

    template <typename T>
    T* take(std::int64_t count) {
        T* const taken = reinterpret_cast<T*>(next);
        next += rounded_up(count * static_cast<std::int64_t>(sizeof(T)), 64);
        return taken;
    }
};

/// Rows that share vectors, with their running results.
struct Panel {
    Rows rows;
    int vectors;
    std::uint8_t* query;  // [depth / 4, lanes, 4], plus 128
    float* unit;          // [lanes]: what a step of the query is worth, times |scale| log2(e)
    float* output;        // [depth, lanes]
    float* maximum;       // [lanes], in scores
    float* sum;           // [lanes]: of weights, in steps of 1/255; 0: the row saw no key

    int lanes() const { return vectors * kLanes; }
};

/// Keys and values of a block as integers.
struct Block {
    std::int8_t* key;     // [kBlockKeys, depth], the depth padded with zeros
    float* unit;          // [kBlockKeys]: what one step of the key is worth
    float* hidden;        // [kBlockKeys]: 0, or -inf behind the last key
    std::int32_t* start;  // [kBlockKeys]: takes off what 128 in the queries adds
    std::int8_t* value;   // [kBlockKeys / 4, depth, 4]
    float* value_unit;    // [depth]
    float* value_middle;  // [depth]
};

/// Memory that all panels use in turn. What rows share the size of is [kPanelRows].
struct Workspace {
    float* centre;          // [depth]: the mean of keys
    float* zeros;           // [depth]
    std::int8_t* rows;      // [kLanes, depth]
    float* scores;          // [kBlockKeys, lanes], in units of the row
    std::uint8_t* weights;  // [kBlockKeys / 4, lanes, 4]
    float* first;           // a row sees the block's keys at places first..last
    float* last;
    float* maximum;  // of the row in the block, in units of the row
    float* decay;    // 2^(old maximum - new maximum)
    float* share;    // 2^(maximum in the block - new maximum)
    float* sum;      // of the row's weights in the block, times share
};

Block take_block(Memory& memory, std::int64_t depth) {
    Block block{};
    block.key = memory.take<std::int8_t>(kBlockKeys * depth);
    block.unit = memory.take<float>(kBlockKeys);
    block.hidden = memory.take<float>(kBlockKeys);
    block.start = memory.take<std::int32_t>(kBlockKeys);
    block.value = memory.take<std::int8_t>(kBlockKeys * depth);
    block.value_unit = memory.take<float>(depth);
    block.value_middle = memory.take<float>(depth);
    return block;
}

Workspace take_workspace(Memory& memory, std::int64_t depth) {
    Workspace work{};
    work.centre = memory.take<float>(depth);
    work.zeros = memory.take<float>(depth);
    work.rows = memory.take<std::int8_t>(kLanes * depth);
    work.scores = memory.take<float>(kBlockKeys * kPanelRows);
    work.weights = memory.take<std::uint8_t>(kBlockKeys * kPanelRows);
    float** const rows[] = {&work.first, &work.last,  &work.maximum,
                            &work.decay, &work.share, &work.sum};
    for (float** const pointer : rows)
        *pointer = memory.take<float>(kPanelRows);
    return work;
}

Panel take_panel(Memory& memory, std::int64_t depth, const Rows& rows) {
    Panel panel{};
    panel.rows = rows;
    panel.vectors = (rows.count + kLanes - 1) / kLanes;
    panel.query = memory.take<std::uint8_t>(depth * panel.lanes());
    panel.unit = memory.take<float>(panel.lanes());
    panel.output = memory.take<float>(depth * panel.lanes());
    panel.maximum = memory.take<float>(panel.lanes());
    panel.sum = memory.take<float>(panel.lanes());
    return panel;
}

// -------------------- floats to integers

Vec load_columns(const float* from, std::int64_t d, std::int64_t depth) {
    if (d + kLanes <= depth)
        return Vec::load(from + d);
    return Vec::load_partial(from + d, static_cast<int>(depth - d));
}

/// What a rounded row is worth per step, and the sum of its steps.
struct Rounded {
    float unit;
    std::int32_t sum;
    bool usable;  // false: it holds infinities or overlarge values
};

/// `row` - `centre` in whole steps, of which the largest value has `range`, then zeros up to a
/// whole vector. `range` is 127, or -127 to turn the row round. `special` becomes NaN for good if
/// there is NaN in the row, and what was rounded then means nothing.
Rounded round_row(const float* row, const float* centre, std::int64_t depth, float range,
                  std::int8_t* to, Vec& special) {
    const Vec zero = Vec::broadcast(0.0f);
    Vec largest = zero;
    for (std::int64_t d = 0; d < depth; d += kLanes) {
        const Vec x = load_columns(row, d, depth) - Vec::load(centre + d);
        largest = max(max(x, zero - x), largest);
        special = fma(x, zero, special);
    }
    const float size = max_of_lanes(largest);
    const bool usable = size <= kLargest, empty = size < kSmallest;
    const Vec steps = Vec::broadcast(empty || !usable ? 0.0f : range / size);
    Ints sum = Ints::broadcast(0);
    for (std::int64_t d = 0; d < depth; d += kLanes) {
        const Vec x = load_columns(row, d, depth) - Vec::load(centre + d);
        // The maximum only matters for NaN, which it replaces.
        const Ints whole = to_ints(max(x * steps, Vec::broadcast(-127.0f)));
        whole.store_bytes(to + d);
        sum = sum + whole;
    }
    return {empty ? 1.0f : size * (1.0f / 127.0f), sum_of_lanes(sum), usable};
}

/// True if nothing has made `special` of round_row NaN.
bool is_clean(Vec special) {
    return sum_of_lanes(special) == 0.0f;
}

/// The mean of at most kSampledKeys keys, evenly spread over all keys of the head that key_mask
/// shows: the same for every tile, so that their parts can be merged. Zeros if there are none.
void find_centre(const AttentionTile& tile, float* centre) {
    const std::int64_t depth = rounded_up(tile.depth, kLanes);
    const std::int64_t step = (tile.keys + kSampledKeys - 1) / kSampledKeys;
    fill(centre, depth, 0.0f);
    int count = 0;
    for (std::int64_t k = 0; k < tile.keys; k += step) {
        if (tile.key_mask != nullptr && tile.key_mask[k] == 0)
            continue;
        ++count;
        for (std::int64_t d = 0; d < depth; d += kLanes) {
            const Vec x = load_columns(tile.key + k * tile.depth, d, tile.depth);
            (Vec::load(centre + d) + x).store(centre + d);
        }
    }
    const Vec share = Vec::broadcast(count == 0 ? 0.0f : 1.0f / static_cast<float>(count));
    for (std::int64_t d = 0; d < depth; d += kLanes)
        (Vec::load(centre + d) * share).store(centre + d);
}

/// False: a key cannot be rounded.
bool round_keys(const Keys& keys, std::int64_t depth, const float* centre, const Block& block) {
    const std::int64_t padded = rounded_up(depth, kLanes);
    const int whole = static_cast<int>(rounded_up(keys.count, kWhole));
    Vec special = Vec::broadcast(0.0f);
    for (int k = 0; k < keys.count; ++k) {
        const Rounded row =
            round_row(keys.key[k], centre, depth, 127.0f, block.key + k * padded, special);
        if (!row.usable)
            return false;
        block.unit[k] = row.unit;
        block.hidden[k] = 0.0f;
        block.start[k] = -128 * row.sum;
    }
    for (int k = keys.count; k < whole; ++k) {
        for (std::int64_t d = 0; d < padded; d += kLanes)
            Ints::broadcast(0).store_bytes(block.key + k * padded + d);
        block.unit[k] = 0.0f;
        block.hidden[k] = -kInfinity;
        block.start[k] = 0;
    }
    return is_clean(special);
}

/// Columns d.. of all values of the block. False: one of them cannot be rounded.
bool round_columns(const Keys& keys, std::int64_t depth, std::int64_t d, const Block& block) {
    const Vec zero = Vec::broadcast(0.0f), half = Vec::broadcast(0.5f);
    Vec highest = Vec::broadcast(-kInfinity), negative = highest, special = zero;
    for (int k = 0; k < keys.count; ++k) {
        const Vec x = load_columns(keys.value[k], d, depth);
        highest = max(x, highest);
        negative = max(zero - x, negative);
        special = fma(x, zero, special);
    }
    if (!(sum_of_lanes(special) == 0.0f && max_of_lanes(max(highest, negative)) <= kLargest))
        return false;
    const Vec middle = (highest - negative) * half, reach = (highest + negative) * half;
    const Vec unit = max(reach, Vec::broadcast(kSmallest)) * Vec::broadcast(1.0f / 127.0f);
    const Vec steps = Vec::broadcast(1.0f) / unit;
    middle.store(block.value_middle + d);
    unit.store(block.value_unit + d);
    const std::int64_t padded = rounded_up(depth, kLanes);
    for (int k = 0; k < static_cast<int>(rounded_up(keys.count, kWhole)); k += kPack) {
        Ints bytes[kPack];
        for (int i = 0; i < kPack; ++i) {
            bytes[i] = Ints::broadcast(0);
            if (k + i < keys.count) {
                const Vec x = load_columns(keys.value[k + i], d, depth) - middle;
                bytes[i] = low_bytes(to_ints(x * steps));
            }
        }
        join_bytes(bytes[0], bytes[1], bytes[2], bytes[3])
            .store(block.value + k * padded + d * kPack);
    }
    return true;
}

/// False: a key or a value cannot be rounded.
bool round_block(const Keys& keys, std::int64_t depth, const float* centre, const Block& block) {
    if (!round_keys(keys, depth, centre, block))
        return false;
    for (std::int64_t d = 0; d < depth; d += kLanes) {
        if (!round_columns(keys, depth, d, block))
            return false;
    }
    return true;
}

// -------------------- one block of keys for one panel

/// Scores of kIntGroup keys from `place`; block maxima move on. kSome: some rows do not see some.
template <int kVectors, bool kSome>
void score_group(const Panel& panel, std::int64_t depth, const Block& block, int place,
                 const Workspace& work) {
    Ints sum[kIntGroup][kVectors];
    MAMMOFM_UNROLL
    for (int k = 0; k < kIntGroup; ++k) {
        MAMMOFM_UNROLL
        for (int v = 0; v < kVectors; ++v)
            sum[k][v] = Ints::broadcast(block.start[place + k]);
    }
    const std::int8_t* keys = block.key + place * depth;
    for (std::int64_t d = 0; d < depth; d += kPack) {
        Ints q[kVectors];
        MAMMOFM_UNROLL
        for (int v = 0; v < kVectors; ++v)
            q[v] = Ints::load(panel.query + (d * kVectors + kPack * v) * kLanes);
        MAMMOFM_UNROLL
        for (int k = 0; k < kIntGroup; ++k) {
            std::int32_t four;
            __builtin_memcpy(&four, keys + k * depth + d, sizeof four);
            const Ints key = Ints::broadcast(four);
            MAMMOFM_UNROLL
            for (int v = 0; v < kVectors; ++v)
                sum[k][v] = dot_bytes(sum[k][v], q[v], key);
        }
    }
    MAMMOFM_UNROLL
    for (int v = 0; v < kVectors; ++v) {
        Vec maximum = Vec::load(work.maximum + v * kLanes);
        MAMMOFM_UNROLL
        for (int k = 0; k < kIntGroup; ++k) {
            const Vec unit = Vec::broadcast(block.unit[place + k]);
            Vec score = fma(to_floats(sum[k][v]), unit, Vec::broadcast(block.hidden[place + k]));
            if (kSome) {
                const Mask mask =
                    visible(work.first + v * kLanes, work.last + v * kLanes, place + k);
                score = select(mask, score, Vec::broadcast(-kInfinity));
            }
            score.store(work.scores + ((place + k) * kVectors + v) * kLanes);
            maximum = max(score, maximum);
        }
        maximum.store(work.maximum + v * kLanes);
    }
}

/// 2^y in whole numbers for y <= log2(255) + rounding: the weight of a key.
///
/// y = n + r as in exp2; the polynomial is minimax in relative error, 1e-4.
inline Ints weight(Vec y) {
    const Vec lowest = Vec::broadcast(-2.0f);  // rounds to 0
    const Vec shift = Vec::broadcast(12582912.0f);
    const Vec bounded = max(y, lowest);
    const Vec shifted = bounded + shift;
    const Vec r = bounded - (shifted - shift);
    Vec p = Vec::broadcast(5.500893e-2f);
    p = fma(p, r, Vec::broadcast(2.4221097e-1f));
    p = fma(p, r, Vec::broadcast(6.9328293e-1f));
    p = fma(p, r, Vec::broadcast(1.0f));
    return to_ints(p * exp2_of_shifted(shifted));
}

/// Weights of `count` keys from scores, from place `begin`; running maxima and sums move on.
template <int kVectors>
void weigh(const Panel& panel, int begin, int end, const Workspace& work) {
    Vec unit[kVectors], reference[kVectors];
    Ints sum[kVectors];
    MAMMOFM_UNROLL
    for (int v = 0; v < kVectors; ++v) {
        unit[v] = Vec::load(panel.unit + v * kLanes);
        const Vec highest = Vec::load(work.maximum + v * kLanes);
        // The largest weight is 255.
        reference[v] = Vec::broadcast(7.9943534f) - finite_reference(highest) * unit[v];
        sum[v] = Ints::broadcast(0);
    }
    for (int k = begin; k < end; k += kPack) {
        MAMMOFM_UNROLL
        for (int v = 0; v < kVectors; ++v) {
            Ints bytes[kPack];
            MAMMOFM_UNROLL
            for (int i = 0; i < kPack; ++i) {
                const Vec score = Vec::load(work.scores + ((k + i) * kVectors + v) * kLanes);
                bytes[i] = weight(fma(score, unit[v], reference[v]));
            }
            const Ints four = join_bytes(bytes[0], bytes[1], bytes[2], bytes[3]);
            four.store(work.weights + (k * kVectors + kPack * v) * kLanes);
            sum[v] = dot_bytes(sum[v], four, Ints::broadcast(0x01010101));
        }
    }
    MAMMOFM_UNROLL
    for (int v = 0; v < kVectors; ++v) {
        const int lane = v * kLanes;
        const Vec before = Vec::load(panel.maximum + lane);
        const Vec here = Vec::load(work.maximum + lane) * unit[v];
        const Vec maximum = max(here, before);
        const Vec decay = exp2(before - finite_reference(maximum));
        const Vec share = exp2(here - finite_reference(maximum));
        const Vec added = share * to_floats(sum[v]);
        maximum.store(panel.maximum + lane);
        decay.store(work.decay + lane);
        share.store(work.share + lane);
        added.store(work.sum + lane);
        fma(decay, Vec::load(panel.sum + lane), added).store(panel.sum + lane);
    }
}

/// O = decay * O + P V for kColumns columns from column d and the keys at places begin..end.
template <int kVectors, int kColumns>
void accumulate_columns(const Panel& panel, std::int64_t depth, std::int64_t d, const Block& block,
                        int begin, int end, const Workspace& work) {
    Ints sum[kColumns][kVectors];
    MAMMOFM_UNROLL
    for (int c = 0; c < kColumns; ++c) {
        MAMMOFM_UNROLL
        for (int v = 0; v < kVectors; ++v)
            sum[c][v] = Ints::broadcast(0);
    }
    for (int k = begin; k < end; k += kPack) {
        const std::int8_t* values = block.value + k * depth + d * kPack;
        Ints weights[kVectors];
        MAMMOFM_UNROLL
        for (int v = 0; v < kVectors; ++v)
            weights[v] = Ints::load(work.weights + (k * kVectors + kPack * v) * kLanes);
        MAMMOFM_UNROLL
        for (int c = 0; c < kColumns; ++c) {
            std::int32_t four;
            __builtin_memcpy(&four, values + c * kPack, sizeof four);
            const Ints value = Ints::broadcast(four);
            MAMMOFM_UNROLL
            for (int v = 0; v < kVectors; ++v)
                sum[c][v] = dot_bytes(sum[c][v], weights[v], value);
        }
    }
    MAMMOFM_UNROLL
    for (int v = 0; v < kVectors; ++v) {
        const Vec decay = Vec::load(work.decay + v * kLanes);
        const Vec share = Vec::load(work.share + v * kLanes);
        const Vec total = Vec::load(work.sum + v * kLanes);
        MAMMOFM_UNROLL
        for (int c = 0; c < kColumns; ++c) {
            float* output = panel.output + ((d + c) * kVectors + v) * kLanes;
            const Vec unit = Vec::broadcast(block.value_unit[d + c]) * share;
            const Vec middle = Vec::broadcast(block.value_middle[d + c]) * total;
            const Vec added = fma(unit, to_floats(sum[c][v]), middle);
            fma(decay, Vec::load(output), added).store(output);
        }
    }
}

/// Keys at places span of a block, of which the panel sees some.
template <int kVectors, bool kSome>
void step(const Panel& panel, std::int64_t depth, const Block& block, Span span,
          const Workspace& work) {
    const std::int64_t padded = rounded_up(depth, kLanes);
    const int begin = span.first / kWhole * kWhole;
    const int end = static_cast<int>(rounded_up(span.end, kWhole));
    fill(work.maximum, panel.lanes(), -kInfinity);
    for (int k = begin; k < end; k += kIntGroup)
        score_group<kVectors, kSome>(panel, padded, block, k, work);
    weigh<kVectors>(panel, begin, end, work);
    std::int64_t d = 0;
    for (; d + kIntGroup <= padded; d += kIntGroup)
        accumulate_columns<kVectors, kIntGroup>(panel, padded, d, block, begin, end, work);
    for (; d < padded; d += kPack)
        accumulate_columns<kVectors, kPack>(panel, padded, d, block, begin, end, work);
}

template <int kVectors = kIntPanelVectors>
void step_panel(const AttentionTile& tile, const Panel& panel, const Keys& keys, const Block& block,
                const Workspace& work) {
    if constexpr (kVectors > 1) {
        if (panel.vectors < kVectors)
            return step_panel<kVectors - 1>(tile, panel, keys, block, work);
    }
    const Span span = seen_by_any(tile, panel.rows, keys);
    if (span.first == span.end)
        return;
    if (seen_by_all(tile, panel.rows, keys))
        return step<kVectors, /*kSome=*/false>(panel, tile.depth, block, span, work);
    find_bounds(tile, panel.rows, keys, panel.lanes(), work.first, work.last);
    step<kVectors, /*kSome=*/true>(panel, tile.depth, block, span, work);
}

// -------------------- a tile

/// Rows r.. of a panel, one per lane, from `query`. False: one of them cannot be rounded.
bool round_queries(const AttentionTile& tile, const Panel& panel, const float* query, int r,
                   const Workspace& work) {
    const std::int64_t padded = rounded_up(tile.depth, kLanes);
    for (std::int64_t i = 0; i < kLanes * padded; i += kLanes)
        Ints::broadcast(0).store_bytes(work.rows + i);
    const float range = tile.scale < 0.0f ? -127.0f : 127.0f;
    const float scale = (tile.scale < 0.0f ? -tile.scale : tile.scale) * kLog2E;
    Vec special = Vec::broadcast(0.0f);
    for (int i = 0; i < min(kLanes, panel.rows.count - r); ++i) {
        const Rounded rounded = round_row(query + i * tile.depth, work.zeros, tile.depth, range,
                                          work.rows + i * padded, special);
        const float unit = rounded.unit * scale;
        if (!rounded.usable || !(unit <= kLargest))
            return false;
        panel.unit[r + i] = unit < kSmallest ? kSmallest : unit;
    }
    // Four bytes move like one float.
    transpose(reinterpret_cast<const float*>(work.rows), kLanes, padded / kPack, padded / kPack,
              reinterpret_cast<float*>(panel.query) + r, panel.lanes());
    return is_clean(special);
}

/// False: a query cannot be rounded.
bool start_panel(const AttentionTile& tile, const Panel& panel, std::int64_t row,
                 const Workspace& work) {
    const std::int64_t padded = rounded_up(tile.depth, kLanes);
    fill(panel.output, padded * panel.lanes(), 0.0f);
    fill(panel.maximum, panel.lanes(), -kInfinity);
    fill(panel.sum, panel.lanes(), 0.0f);
    fill(panel.unit, panel.lanes(), 1.0f);
    for (int r = 0; r < panel.lanes(); r += kLanes) {
        if (!round_queries(tile, panel, tile.query + (row + r) * tile.depth, r, work))
            return false;
    }
    for (std::int64_t i = 0; i < padded * panel.lanes(); i += kPack * kLanes)
        plus_128(Ints::load(panel.query + i)).store(panel.query + i);
    return true;
}

/// Write the results of the rows from `row` of the tile. A row that saw no key gets zeros.
void finish_panel(const AttentionTile& tile, const Panel& panel, std::int64_t row) {
    const bool partial = tile.row_max != nullptr;
    const Vec zero = Vec::broadcast(0.0f), one = Vec::broadcast(1.0f);
    for (int v = 0; v < panel.vectors; ++v) {
        const Vec sum = Vec::load(panel.sum + v * kLanes);
        const Vec divisor = partial ? Vec::broadcast(255.0f) : select(zero < sum, sum, one);
        for (std::int64_t d = 0; d < tile.depth; ++d) {
            float* output = panel.output + d * panel.lanes() + v * kLanes;
            (Vec::load(output) / divisor).store(output);
        }
    }
    transpose(panel.output, tile.depth, panel.rows.count, panel.lanes(),
              tile.output + row * tile.depth, tile.depth);
    for (int r = 0; r < panel.rows.count && partial; ++r) {
        tile.row_max[row + r] = panel.maximum[r];
        tile.row_sum[row + r] = panel.sum[r] / 255.0f;
        tile.row_seen[row + r] = panel.sum[r] > 0.0f ? 1.0f : 0.0f;
    }
}

bool attend(const AttentionTile& tile) {
    const std::int64_t padded = rounded_up(tile.depth, kLanes);
    Memory memory{reinterpret_cast<std::uintptr_t>(tile.scratch)};
    const Block block = take_block(memory, padded);
    const Workspace work = take_workspace(memory, padded);
    fill(work.zeros, padded, 0.0f);
    find_centre(tile, work.centre);
    Panel panels[kTileRowsInt8 / kLanes];
    const int vectors = panel_vectors(tile, kIntPanelVectors);
    int count = 0;
    for (std::int64_t row = 0; row < tile.rows; row += vectors * kLanes) {
        const int rows = static_cast<int>(min(vectors * kLanes, tile.rows - row));
        panels[count] = take_panel(memory, padded, {tile.position + row, rows});
        if (!start_panel(tile, panels[count++], row, work))
            return false;
    }
    KeyBlock<kBlockKeys> buffer;
    for (std::int64_t cursor = tile.key_begin;;) {
        const Keys keys = buffer.next(tile, cursor);
        if (keys.count == 0)
            break;
        if (!round_block(keys, tile.depth, work.centre, block))
            return false;
        for (int i = 0; i < count; ++i)
            step_panel(tile, panels[i], keys, block, work);
    }
    for (int i = 0; i < count; ++i)
        finish_panel(tile, panels[i], static_cast<std::int64_t>(i) * vectors * kLanes);
    return true;
}

std::size_t scratch_floats(std::int64_t depth) {
    const std::int64_t padded = rounded_up(depth, kLanes);
    Memory memory{0};
    take_block(memory, padded);
    take_workspace(memory, padded);
    for (std::int64_t row = 0; row < kTileRowsInt8; row += kLanes)
        take_panel(memory, padded, {0, kLanes});
    return memory.next / sizeof(float);
}

}  // namespace

extern const TiledAttentionInt8Kernel tiled_attention_int8_kernel = {scratch_floats, attend,
                                                                     kIntsPay};

}  // namespace mammofm::MAMMOFM_ISA
