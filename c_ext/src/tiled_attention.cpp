#include "tiled_attention.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <openvino/core/parallel.hpp>
#include <type_traits>
#include <utility>

#include "instruction_set.hpp"
#include "tiled_attention_kernel.hpp"

namespace mammofm {
namespace {

// A thread is worth waking for about 20 microseconds of work.
constexpr double kMultiplyAddsPerThread = 1 << 19;
// Shorter pieces of the keys would spend more on merging than they win.
constexpr std::int64_t kMinKeysPerPart = 256;
// Rounding the keys costs as much as attention of some ten queries in float32.
constexpr std::int64_t kMinInt8Queries = 32;
constexpr std::size_t kAlignment = 64;

/// Uninitialised floats on a cache line; grows, never shrinks.
class Buffer {
  public:
    float* reserve(std::size_t floats) {
        if (floats > m_size) {
            const std::size_t bytes = (floats * sizeof(float) + kAlignment - 1) / kAlignment;
            m_data.reset(static_cast<float*>(std::aligned_alloc(kAlignment, bytes * kAlignment)));
            m_size = m_data ? floats : 0;
            if (!m_data)
                throw std::bad_alloc();
        }
        return m_data.get();
    }

  private:
    struct Free {
        void operator()(float* data) const { std::free(data); }
    };
    std::unique_ptr<float, Free> m_data;
    std::size_t m_size = 0;
};

/// A thread's buffer while it is in use. A thread that waits for others may start another
/// inference's attention meanwhile: that one finds none and makes its own.
class Loan {
  public:
    explicit Loan(Buffer& owner) : m_owner(owner), m_buffer(std::move(owner)) {}
    ~Loan() { m_owner = std::move(m_buffer); }
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;

    Buffer& buffer() { return m_buffer; }

  private:
    Buffer& m_owner;
    Buffer m_buffer;
};

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
    return (a + b - 1) / b;
}

/// How the work is cut: every head into tiles of queries, and each tile into parts of its keys
/// where there are fewer tiles than threads.
class Plan {
  public:
    Plan(const AttentionProblem& problem, int threads, bool int8) : m_problem(problem) {
        // No more than this many keys can lie before or behind a query; larger values overflow.
        const std::int64_t unlimited = problem.queries + problem.keys;
        const std::int64_t window =
            problem.window < 0 ? unlimited : std::min(problem.window, unlimited);
        m_behind = window;
        m_ahead = problem.causal ? 0 : window;
        m_heads = problem.batch * problem.heads;
        m_tile_rows = std::min(problem.queries, int8 ? int8_tile_rows(threads) : kTileRows);
        m_tiles = ceil_div(problem.queries, m_tile_rows);
        const std::int64_t tasks = m_heads * m_tiles;
        if (threads > 1 && tasks < 2 * threads)
            m_parts = std::clamp<std::int64_t>(problem.keys / kMinKeysPerPart, 1,
                                               ceil_div(2 * threads, tasks));
    }

    std::int64_t tiles() const { return m_heads * m_tiles; }
    std::int64_t parts() const { return m_parts; }
    std::int64_t rows(std::int64_t index) const {
        const std::int64_t first = index % m_tiles * m_tile_rows;
        return std::min(m_tile_rows, m_problem.queries - first);
    }
    std::int64_t tile_rows() const { return m_tile_rows; }

    /// Part `part` of tile `index`; output and scratch are still to be set. Its keys may be none.
    AttentionTile tile(std::int64_t index, std::int64_t part) const {
        const std::int64_t head = index / m_tiles, first = index % m_tiles * m_tile_rows;
        const std::int64_t keys = m_problem.keys, depth = m_problem.depth;
        AttentionTile tile{};
        tile.query = m_problem.query + (head * m_problem.queries + first) * depth;
        tile.key = m_problem.key + head * keys * depth;
        tile.value = m_problem.value + head * keys * depth;
        if (m_problem.key_mask != nullptr)
            tile.key_mask = m_problem.key_mask + head / m_problem.heads * keys;
        tile.rows = rows(index);
        tile.keys = keys;
        tile.depth = depth;
        tile.position = first + keys - m_problem.queries;
        tile.behind = m_behind;
        tile.ahead = m_ahead;
        tile.scale = m_problem.scale;
        const std::int64_t begin = std::max<std::int64_t>(0, tile.position - m_behind);
        const std::int64_t end = std::min(keys, tile.position + tile.rows + m_ahead);
        const std::int64_t length = std::max<std::int64_t>(0, end - begin);
        tile.key_begin = begin + length * part / m_parts;
        tile.key_end = begin + length * (part + 1) / m_parts;
        return tile;
    }

    float* output(std::int64_t index) const {
        const std::int64_t head = index / m_tiles, first = index % m_tiles * m_tile_rows;
        return m_problem.output + (head * m_problem.queries + first) * m_problem.depth;
    }

  private:
    /// As many as leave every thread some tiles, for each tile rounds its keys anew.
    std::int64_t int8_tile_rows(int threads) const {
        std::int64_t rows = kTileRowsInt8;
        while (rows > kTileRows && m_heads * ceil_div(m_problem.queries, rows) < 4 * threads)
            rows -= kTileRows;
        return rows;
    }

    const AttentionProblem& m_problem;
    std::int64_t m_behind, m_ahead, m_heads, m_tile_rows, m_tiles, m_parts = 1;
};

/// Results of all parts before they are merged.
class Partials {
  public:
    Partials(const Plan& plan, std::int64_t depth, Buffer& buffer)
        : m_rows(plan.tile_rows()), m_depth(depth), m_parts(plan.parts()) {
        m_data = buffer.reserve(static_cast<std::size_t>(plan.tiles() * m_parts * stride()));
    }

    void attach(AttentionTile& tile, std::int64_t index, std::int64_t part) const {
        tile.output = m_data + (index * m_parts + part) * stride();
        tile.row_max = tile.output + m_rows * m_depth;
        tile.row_sum = tile.row_max + m_rows;
        tile.row_seen = tile.row_sum + m_rows;
    }

    /// Row `row` of tile `index` from its parts, in their order.
    void merge(std::int64_t index, std::int64_t row, float* output) const {
        constexpr float kInfinity = std::numeric_limits<float>::infinity();
        float highest = -kInfinity, sum = 0.0f;
        bool seen = false;
        AttentionTile part{};
        for (std::int64_t p = 0; p < m_parts; ++p) {
            attach(part, index, p);
            highest = std::max(highest, part.row_max[row]);
        }
        // Scores that are all -inf: any finite reference keeps the exponentials at 0.
        const float reference = highest == -kInfinity ? 0.0f : highest;
        std::fill_n(output, m_depth, 0.0f);
        for (std::int64_t p = 0; p < m_parts; ++p) {
            attach(part, index, p);
            if (part.row_seen[row] == 0.0f)
                continue;
            seen = true;
            const float weight = std::exp2(part.row_max[row] - reference);
            sum += weight * part.row_sum[row];
            const float* values = part.output + row * m_depth;
            for (std::int64_t d = 0; d < m_depth; ++d)
                output[d] += weight * values[d];
        }
        // Seen, but the sum is 0: 0 / 0, the NaN that torch gives for scores that are all -inf.
        for (std::int64_t d = 0; seen && d < m_depth; ++d)
            output[d] /= sum;
    }

  private:
    std::int64_t stride() const { return m_rows * (m_depth + 3); }

    std::int64_t m_rows, m_depth, m_parts;
    float* m_data;
};

/// Threads that the problem is worth, at most those that OpenVINO gives to this inference.
int useful_threads(const AttentionProblem& problem) {
    const double multiply_adds = 2.0 * static_cast<double>(problem.batch * problem.heads) *
                                 static_cast<double>(problem.queries) *
                                 static_cast<double>(problem.keys * problem.depth);
    const double worth = std::max(1.0, multiply_adds / kMultiplyAddsPerThread);
    return static_cast<int>(std::min<double>(worth, parallel_get_max_threads()));
}

/// Call task(i) for every i below `count`. Tasks differ in length (masks), so threads take the next
/// one when they are ready instead of a fixed share.
template <typename Task>
void for_each(std::int64_t count, int threads, const Task& task) {
    std::atomic<std::int64_t> next{0};
    ov::parallel_nt(static_cast<int>(std::min<std::int64_t>(threads, count)), [&](int, int) {
        for (std::int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;)
            task(i);
    });
}

/// False: the kernel declined.
template <typename Kernel>
bool attend(const Kernel& kernel, const AttentionTile& tile) {
    if constexpr (std::is_same_v<Kernel, TiledAttentionInt8Kernel>) {
        return kernel.attend(tile);
    } else {
        kernel.attend(tile);
        return true;
    }
}

/// False: the kernel declined, and the output means nothing.
template <typename Kernel>
bool run(const AttentionProblem& problem, const Kernel& kernel) {
    // Kept from call to call, because a decoder calls a layer once per token.
    static thread_local Buffer scratch;
    static thread_local Buffer partial_results;
    const int threads = useful_threads(problem);
    const Plan plan(problem, threads, std::is_same_v<Kernel, TiledAttentionInt8Kernel>);
    std::atomic<bool> done{true};
    const auto work = [&](AttentionTile& tile) {
        tile.scratch = scratch.reserve(kernel.scratch_floats(problem.depth));
        if (done.load(std::memory_order_relaxed) && !attend(kernel, tile))
            done.store(false, std::memory_order_relaxed);
    };
    if (plan.parts() == 1) {
        for_each(plan.tiles(), threads, [&](std::int64_t index) {
            AttentionTile tile = plan.tile(index, /*part=*/0);
            tile.output = plan.output(index);
            work(tile);
        });
        return done;
    }
    Loan memory(partial_results);
    const Partials partials(plan, problem.depth, memory.buffer());
    for_each(plan.tiles() * plan.parts(), threads, [&](std::int64_t task) {
        const std::int64_t index = task / plan.parts(), part = task % plan.parts();
        AttentionTile tile = plan.tile(index, part);
        partials.attach(tile, index, part);
        work(tile);
    });
    for (std::int64_t index = 0; done && index < plan.tiles(); ++index) {
        for (std::int64_t row = 0; row < plan.rows(index); ++row)
            partials.merge(index, row, plan.output(index) + row * problem.depth);
    }
    return done;
}

}  // namespace

void tiled_attention(const AttentionProblem& problem, const InstructionSet& kernels) {
    if (problem.batch * problem.heads * problem.queries == 0)
        return;
    const bool int8 = problem.int8 && problem.queries >= kMinInt8Queries;
    if (!int8 || !run(problem, *kernels.int8_kernel))
        run(problem, *kernels.kernel);
}

}  // namespace mammofm
