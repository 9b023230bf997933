#include "mbconv_work.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <mutex>
#include <new>
#include <vector>

namespace mammofm {
namespace {

constexpr std::size_t kAlignment = 64;
// In float32 early blocks of pictures of a whole detector take much that the end of the graph needs
// itself; to fetch it anew costs them a few per cent. Of smaller pictures everything is kept.
constexpr std::size_t kMostSpare = 128 << 20;
constexpr std::int64_t kMinStripRows = 24;
constexpr std::int64_t kTasksPerThread = 4;

class Workspaces {
  public:
    std::unique_ptr<MbBuffer> take() {
        const std::lock_guard<std::mutex> lock(m_mutex);
        if (m_free.empty())
            return std::make_unique<MbBuffer>();
        auto buffer = std::move(m_free.back());
        m_free.pop_back();
        return buffer;
    }
    void give_back(std::unique_ptr<MbBuffer> buffer) {
        const std::lock_guard<std::mutex> lock(m_mutex);
        m_free.push_back(std::move(buffer));
    }

  private:
    std::mutex m_mutex;
    std::vector<std::unique_ptr<MbBuffer>> m_free;
};

Workspaces& workspaces() {
    static Workspaces all;
    return all;
}

float sigmoid(float value) {
    return 1.0f / (1.0f + std::exp(-value));
}

}  // namespace

std::uint8_t* MbBuffer::reserve(std::size_t bytes) {
    if (bytes > m_size || m_size - bytes > kMostSpare || !m_data) {
        const std::size_t lines = bytes / kAlignment + 1;
        m_data.reset();
        m_size = 0;
        m_data.reset(
            static_cast<std::uint8_t*>(std::aligned_alloc(kAlignment, lines * kAlignment)));
        if (!m_data)
            throw std::bad_alloc();
        m_size = lines * kAlignment;
    }
    return m_data.get();
}

MbWorkspace::MbWorkspace() : m_buffer(workspaces().take()) {}

MbWorkspace::~MbWorkspace() {
    workspaces().give_back(std::move(m_buffer));
}

std::uint8_t* thread_scratch(std::size_t bytes) {
    static thread_local MbBuffer scratch;
    return scratch.reserve(bytes);
}

void give_back_pages(const void* data, std::size_t bytes) {
#ifdef MADV_PAGEOUT
    // Whole pages only: what stands beside the weights may be in use.
    const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    const auto address = reinterpret_cast<std::uintptr_t>(data);
    const std::uintptr_t begin = (address + page - 1) / page * page;
    const std::uintptr_t end = (address + bytes) / page * page;
    if (begin < end)
        madvise(reinterpret_cast<void*>(begin), end - begin, MADV_PAGEOUT);
#else
    static_cast<void>(data), static_cast<void>(bytes);
#endif
}

std::int64_t strips_of(std::int64_t rows, std::int64_t chunks, int threads) {
    if (threads == 1 || chunks >= 2 * kTasksPerThread * threads)
        return 1;
    return std::clamp<std::int64_t>(rows / kMinStripRows, 1,
                                    ceil_div(kTasksPerThread * threads, chunks));
}

void squeeze_excite(const MbConvShape& shape, const MbConvGate& weights, MbDotRows dot_rows,
                    const float* means, float* gate) {
    std::vector<float> squeezed(weights.reduce_bias, weights.reduce_bias + shape.squeeze);
    dot_rows(weights.reduce, means, squeezed.data(), shape.squeeze, shape.hidden);
    for (float& value : squeezed)
        value *= sigmoid(value);
    std::copy_n(weights.excite_bias, shape.hidden, gate);
    dot_rows(weights.excite, squeezed.data(), gate, shape.hidden, shape.squeeze);
    for (std::int64_t c = 0; c < shape.hidden; ++c)
        gate[c] = sigmoid(gate[c]);
}

}  // namespace mammofm
