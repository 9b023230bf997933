#include "mbconv_work.hpp"

#include <cmath>
#include <mutex>
#include <new>
#include <vector>

namespace mammofm {
namespace {

constexpr std::size_t kAlignment = 64;
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
    if (bytes > m_size || !m_data) {
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

std::int64_t strips_of(std::int64_t rows, std::int64_t chunks, int threads) {
    if (threads == 1 || chunks >= 2 * kTasksPerThread * threads)
        return 1;
    return std::clamp<std::int64_t>(rows / kMinStripRows, 1,
                                    ceil_div(kTasksPerThread * threads, chunks));
}

void squeeze_excite(const MbConvShape& shape, const MbConvGate& weights, MbAccumulate accumulate,
                    const float* means, float* gate) {
    std::vector<float> squeezed(weights.reduce_bias, weights.reduce_bias + shape.squeeze);
    accumulate(means, weights.reduce, squeezed.data(), shape.hidden, shape.squeeze);
    for (float& value : squeezed)
        value *= sigmoid(value);
    std::copy_n(weights.excite_bias, shape.hidden, gate);
    accumulate(squeezed.data(), weights.excite, gate, shape.squeeze, shape.hidden);
    for (std::int64_t c = 0; c < shape.hidden; ++c)
        gate[c] = sigmoid(gate[c]);
}

}  // namespace mammofm
