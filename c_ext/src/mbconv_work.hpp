// What TiledMBConv in 8 bits and in float32 share: sizes, memory, threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <openvino/core/parallel.hpp>

namespace mammofm {

/// Sizes of a block; all squares of kernels, paddings alike in both directions.
struct MbConvShape {
    std::int64_t in_channels, in_height, in_width;
    std::int64_t
        expand;  ///< 0: none, 1: product 1x1, 3: convolution 3x3 with stride 2 of 1 channel
    std::int64_t expand_pad;  ///< before
    std::int64_t hidden, height, width;
    std::int64_t kernel, stride, pad;  ///< pad: before
    std::int64_t squeeze;
    std::int64_t out_channels, out_height, out_width;
    bool shortcut;
};

/// The squeeze-excite weights, used where the graph holds them.
struct MbConvGate {
    const float* reduce;  ///< [squeeze, hidden]
    const float* reduce_bias;
    const float* excite;  ///< [hidden, squeeze]
    const float* excite_bias;
};

/// to[i] += sum over j of weights[i, j] * from[j].
using MbDotRows = void (*)(const float* weights, const float* from, float* to, std::int64_t rows,
                           std::int64_t columns);

/// From the means of the channels to the gate before its rounding, if any: both [hidden].
void squeeze_excite(const MbConvShape& shape, const MbConvGate& weights, MbDotRows dot_rows,
                    const float* means, float* gate);

/// Uninitialised bytes on a cache line; grows, and shrinks where very much would be left over.
class MbBuffer {
  public:
    std::uint8_t* reserve(std::size_t bytes);
    template <typename T>
    T* reserve_of(std::int64_t count) {
        return reinterpret_cast<T*>(reserve(static_cast<std::size_t>(count) * sizeof(T)));
    }

  private:
    struct Free {
        void operator()(std::uint8_t* data) const { std::free(data); }
    };
    std::unique_ptr<std::uint8_t, Free> m_data;
    std::size_t m_size = 0;
};

/// Memory between the passes for the length of one run. All blocks of the process share it: one
/// runs after another.
class MbWorkspace {
  public:
    MbWorkspace();
    ~MbWorkspace();
    MbWorkspace(const MbWorkspace&) = delete;
    MbWorkspace& operator=(const MbWorkspace&) = delete;
    std::uint8_t* reserve(std::size_t bytes) { return m_buffer->reserve(bytes); }

  private:
    std::unique_ptr<MbBuffer> m_buffer;
};

/// Memory of the calling thread, until its next call.
std::uint8_t* thread_scratch(std::size_t bytes);

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
    return (a + b - 1) / b;
}

/// Call task(i) for every i below `count`; threads take the next one when they are ready.
template <typename Task>
void for_each(std::int64_t count, int threads, const Task& task) {
    std::atomic<std::int64_t> next{0};
    ov::parallel_nt(static_cast<int>(std::min<std::int64_t>(threads, count)), [&](int, int) {
        for (std::int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;)
            task(i);
    });
}

/// Let the system take back the memory of weights that were packed and are not read again: pages of
/// a mapped file, for the most part, which can be read anew. Nothing is lost in any case.
void give_back_pages(const void* data, std::size_t bytes);

/// Strips that the rows of a first pass are cut into: none where there are chunks enough for the
/// threads. A strip computes up to a kernel's rows more than its share.
std::int64_t strips_of(std::int64_t rows, std::int64_t chunks, int threads);

}  // namespace mammofm
