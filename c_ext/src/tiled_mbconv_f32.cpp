#include "tiled_mbconv_f32.hpp"

#include <algorithm>

#include "instruction_set.hpp"
#include "tiled_mbconv_f32_kernel.hpp"

namespace mammofm {
namespace {

// Pixels of a task of the second pass: a multiple of what kernels hold at a time (8, 6 or 4), so
// many that weights from L3 are used often, so few that sums of all outputs stay in L2.
constexpr std::int64_t kTilePixels = 96;

std::vector<float> padded(const float* from, std::int64_t count, std::int64_t to) {
    std::vector<float> values(static_cast<std::size_t>(to), 0.0f);
    if (from != nullptr)
        std::copy_n(from, count, values.begin());
    return values;
}

float* reserve_zeros(MbBuffer& buffer, std::int64_t count) {
    auto* data = buffer.reserve_of<float>(count);
    std::fill_n(data, count, 0.0f);
    return data;
}

/// [channels, depth] as [chunks, depth, 48], zeros behind the last channel.
float* pack_by_chunk(const float* from, std::int64_t channels, std::int64_t depth,
                     MbBuffer& buffer) {
    const std::int64_t chunk = depth * kMbF32Chunk;
    float* packed = reserve_zeros(buffer, ceil_div(channels, kMbF32Chunk) * chunk);
    for (std::int64_t c = 0; c < channels; ++c) {
        float* to = packed + c / kMbF32Chunk * chunk + c % kMbF32Chunk;
        for (std::int64_t k = 0; k < depth; ++k)
            to[k * kMbF32Chunk] = from[c * depth + k];
    }
    return packed;
}

/// body(size, vector) for panels of 3 vectors, or of 2 where that leaves no single one.
template <typename Body>
void for_each_panel(std::int64_t vectors, const Body& body) {
    const std::int64_t panels = ceil_div(vectors, kMbF32Vectors);
    for (std::int64_t panel = 0, vector = 0; panel < panels; ++panel) {
        const std::int64_t size = ceil_div(vectors - vector, panels - panel);
        body(size, vector);
        vector += size;
    }
}

}  // namespace

// -------------------- packing

MbConvF32::MbConvF32(const MbConvShape& shape, const MbConvF32Weights& weights)
    : m_shape(shape),
      m_kernel(*selected_instruction_set().mbconv_f32_kernel),
      m_chunks(ceil_div(shape.hidden, kMbF32Chunk)),
      m_vectors(ceil_div(shape.out_channels, kMbF32Lanes)) {
    if (shape.expand != 0)
        pack_expand(weights);
    pack_depthwise(weights);
    pack_project(weights);
}

/// [chunks, depth, 48].
void MbConvF32::pack_expand(const MbConvF32Weights& weights) {
    const std::int64_t depth = m_shape.expand == 3 ? 9 : m_shape.in_channels;
    m_expand_weights = pack_by_chunk(weights.expand, m_shape.hidden, depth, m_expand);
    m_expand_bias = padded(weights.expand_bias, m_shape.hidden, m_chunks * kMbF32Chunk);
}

/// [chunks, kernel, kernel, 48].
void MbConvF32::pack_depthwise(const MbConvF32Weights& weights) {
    const std::int64_t cells = m_shape.kernel * m_shape.kernel;
    m_depth_weights = pack_by_chunk(weights.depthwise, m_shape.hidden, cells, m_depthwise);
    m_depth_bias = padded(weights.depthwise_bias, m_shape.hidden, m_chunks * kMbF32Chunk);
}

/// Panel after panel of up to 3 vectors: [hidden, vectors, 16].
void MbConvF32::pack_project(const MbConvF32Weights& weights) {
    const std::int64_t hidden = m_shape.hidden;
    m_project_weights = reserve_zeros(m_project, m_vectors * kMbF32Lanes * hidden);
    float* to = m_project_weights;
    for_each_panel(m_vectors, [&](std::int64_t size, std::int64_t vector) {
        const std::int64_t first = vector * kMbF32Lanes, width = size * kMbF32Lanes;
        const std::int64_t end = std::min(width, m_shape.out_channels - first);
        for (std::int64_t lane = 0; lane < end; ++lane) {
            const float* from = weights.project + (first + lane) * hidden;
            for (std::int64_t k = 0; k < hidden; ++k)
                to[k * width + lane] = from[k];
        }
        to += hidden * width;
    });
    m_project_bias = padded(weights.project_bias, m_shape.out_channels, m_vectors * kMbF32Lanes);
}

// -------------------- running

void MbConvF32::first_pass(const float* input, float* hidden, float* means) const {
    const MbConvShape& shape = m_shape;
    const int threads = parallel_get_max_threads();
    const std::int64_t strips = strips_of(shape.out_height, m_chunks, threads);
    const std::int64_t pixels = shape.out_height * shape.out_width;
    const std::int64_t depth = shape.expand == 3 ? 9 : shape.in_channels;
    const std::int64_t rows = shape.out_height * kMbF32Chunk;
    std::vector<float> row_sums(static_cast<std::size_t>(m_chunks * rows));
    for_each(m_chunks * strips, threads, [&](std::int64_t task) {
        const std::int64_t chunk = task % m_chunks, index = task / m_chunks;
        const std::int64_t channel = chunk * kMbF32Chunk;
        MbF32Strip strip{};
        strip.input = input;
        strip.in_height = shape.in_height;
        strip.in_width = shape.in_width;
        strip.in_channels = shape.in_channels;
        strip.height = shape.height;
        strip.width = shape.width;
        strip.expand = shape.expand;
        strip.expand_pad = shape.expand_pad;
        strip.first_channel = channel;
        strip.channels = std::min(kMbF32Chunk, shape.hidden - channel);
        if (shape.expand != 0) {
            strip.expand_weights = m_expand_weights + channel * depth;
            strip.expand_bias = &m_expand_bias[static_cast<std::size_t>(channel)];
        }
        strip.depth_weights = m_depth_weights + channel * shape.kernel * shape.kernel;
        strip.depth_bias = &m_depth_bias[static_cast<std::size_t>(channel)];
        strip.kernel = shape.kernel;
        strip.stride = shape.stride;
        strip.pad = shape.pad;
        strip.out_width = shape.out_width;
        strip.row_begin = shape.out_height * index / strips;
        strip.row_end = shape.out_height * (index + 1) / strips;
        strip.output = hidden + channel * pixels;
        strip.row_sums = &row_sums[static_cast<std::size_t>(chunk * rows)];
        const std::size_t scratch = m_kernel.strip_scratch(strip) * sizeof(float);
        strip.scratch = reinterpret_cast<float*>(thread_scratch(scratch));
        m_kernel.strip(strip);
    });
    for (std::int64_t c = 0; c < shape.hidden; ++c) {
        const float* sums = &row_sums[static_cast<std::size_t>(c / kMbF32Chunk * rows)];
        double sum = 0;
        for (std::int64_t row = 0; row < shape.out_height; ++row)
            sum += sums[row * kMbF32Chunk + c % kMbF32Chunk];
        means[c] = static_cast<float>(sum / static_cast<double>(pixels));
    }
}

/// The projection's weights times the gate, which spares a pass over all pixels.
void MbConvF32::gate_projection(const float* gate, float* weights) const {
    const std::int64_t hidden = m_shape.hidden;
    std::int64_t at = 0;
    std::vector<std::pair<std::int64_t, std::int64_t>> panels;  // where, and how wide
    for_each_panel(m_vectors, [&](std::int64_t size, std::int64_t) {
        panels.emplace_back(at, size * kMbF32Lanes);
        at += hidden * size * kMbF32Lanes;
    });
    for_each(
        static_cast<std::int64_t>(panels.size()), parallel_get_max_threads(), [&](std::int64_t i) {
            const auto [offset, width] = panels[static_cast<std::size_t>(i)];
            m_kernel.scale_rows(m_project_weights + offset, gate, weights + offset, hidden, width);
        });
}

void MbConvF32::second_pass(const float* hidden, const float* weights, const float* shortcut,
                            float* output, float* planes) const {
    const std::int64_t pixels = m_shape.out_height * m_shape.out_width;
    for_each(ceil_div(pixels, kTilePixels), parallel_get_max_threads(), [&](std::int64_t index) {
        MbF32Project project{};
        project.input = hidden;
        project.channels = m_shape.hidden;
        project.pixels = pixels;
        project.weights = weights;
        project.bias = m_project_bias.data();
        project.out_vectors = m_vectors;
        project.out_channels = m_shape.out_channels;
        project.shortcut = shortcut;
        project.output = output;
        project.planes = planes;
        project.pixel_begin = index * kTilePixels;
        project.pixel_end = std::min(pixels, project.pixel_begin + kTilePixels);
        project.scratch = reinterpret_cast<float*>(thread_scratch(
            static_cast<std::size_t>(kTilePixels * m_vectors * kMbF32Lanes) * sizeof(float)));
        m_kernel.project(project);
    });
}

void MbConvF32::run(const MbConvGate& weights, const float* input, float* output,
                    float* planes) const {
    const std::int64_t pixels = m_shape.out_height * m_shape.out_width;
    const std::int64_t hidden = m_chunks * kMbF32Chunk * pixels;
    const std::int64_t projection = m_vectors * kMbF32Lanes * m_shape.hidden;
    MbWorkspace workspace;
    auto* memory = reinterpret_cast<float*>(
        workspace.reserve(static_cast<std::size_t>(hidden + projection) * sizeof(float)));
    std::vector<float> means(static_cast<std::size_t>(m_shape.hidden)), gate(means.size());
    first_pass(input, memory, means.data());
    squeeze_excite(m_shape, weights, m_kernel.dot_rows, means.data(), gate.data());
    gate_projection(gate.data(), memory + hidden);
    second_pass(memory, memory + hidden, m_shape.shortcut ? input : nullptr, output, planes);
}

}  // namespace mammofm
