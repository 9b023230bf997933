#include "tiled_mbconv.hpp"

#include <algorithm>
#include <cmath>

#include "instruction_set.hpp"
#include "tiled_mbconv_kernel.hpp"

namespace mammofm {
namespace {

constexpr float kLog2E = 1.44269504f;
constexpr std::int64_t kVectorBytes = kMbLanes * 4;
// Of gated pixels, so that they stay in L2 together with a panel of weights.
constexpr std::int64_t kTileBytes = 160 << 10;

std::int64_t sum_of(const std::int8_t* weights, std::int64_t count) {
    std::int64_t sum = 0;
    for (std::int64_t i = 0; i < count; ++i)
        sum += weights[i];
    return sum;
}

std::uint8_t byte_of_zero(const MbRange& range) {
    const float zero = std::nearbyint(-range.low * range.per_step());
    return static_cast<std::uint8_t>(std::clamp(zero, 0.0f, 255.0f));
}

/// What stands where `value` was, once it was rounded to a byte.
float rounded(float value, const MbRange& range) {
    const float byte = std::nearbyint((value - range.low) * range.per_step());
    return range.low + std::clamp(byte, 0.0f, 255.0f) * range.step();
}

/// Zeroed bytes.
std::int8_t* reserve_zeros(MbBuffer& buffer, std::int64_t bytes) {
    auto* data = buffer.reserve_of<std::int8_t>(bytes);
    std::fill_n(data, bytes, std::int8_t{0});
    return data;
}

}  // namespace

const MbConvKernel& selected_mbconv_kernel() {
    const std::string& name = selected_instruction_set().name;
    if (name == "portable")
        return portable::mbconv_kernel;
    if (name == "avx2" || !__builtin_cpu_supports("avx512vnni"))
        return avx2::mbconv_kernel;
    return avx512vnni::mbconv_kernel;
}

// -------------------- packing

MbConv::MbConv(const MbConvShape& shape, const MbConvRanges& ranges, const MbConvWeights& weights,
               std::int64_t most_hidden)
    : m_shape(shape),
      m_ranges(ranges),
      m_kernel(selected_mbconv_kernel()),
      m_most_hidden(most_hidden) {
    m_chunks = ceil_div(shape.hidden, kMbChunk);
    m_padded = m_chunks * kMbChunk;
    m_parameters.assign(static_cast<std::size_t>(m_chunks * kMbParameters * kMbChunk), 0.0f);
    m_zeros.assign(static_cast<std::size_t>(m_padded), 0);
    if (shape.expand != 0)
        pack_expand(weights);
    pack_depthwise(weights);
    pack_project(weights);
}

/// [chunks, depth / 4, 3, 16, 4], and the parameters of the expanded tensor.
void MbConv::pack_expand(const MbConvWeights& weights) {
    const std::int64_t used = m_shape.expand == 3 ? 9 : m_shape.in_channels;
    const std::int64_t depth = ceil_div(used, 4) * 4;
    m_expand_weights = reserve_zeros(m_expand, m_padded * depth);
    for (std::int64_t c = 0; c < m_shape.hidden; ++c) {
        const std::int8_t* from = weights.expand + c * used;
        const std::int64_t chunk = c / kMbChunk, lane = c % kMbChunk;
        std::int8_t* to = m_expand_weights + chunk * kMbChunk * depth + lane * 4;
        for (std::int64_t k = 0; k < used; ++k)
            to[k / 4 * kMbChunk * 4 + k % 4] = from[k];
        float* values =
            &m_parameters[static_cast<std::size_t>(chunk * kMbParameters * kMbChunk + lane)];
        const float step = weights.hidden[c], bias = weights.hidden[m_shape.hidden + c];
        const float scale = m_ranges.input.step() * step;
        const float shift =
            m_ranges.input.low * step * static_cast<float>(sum_of(from, used)) + bias;
        values[kMbExpandScale * kMbChunk] = scale;
        values[kMbExpandBias * kMbChunk] = shift;
        values[kMbExpandExponentScale * kMbChunk] = -kLog2E * scale;
        values[kMbExpandExponentBias * kMbChunk] = -kLog2E * shift;
    }
}

/// [chunks, 4, kernel, 2, 3, 16, 4]: for each row of a band at which the kernel may begin, and each
/// of its columns, what meets the rows of two bands.
void MbConv::pack_depthwise(const MbConvWeights& weights) {
    const std::int64_t kernel = m_shape.kernel, hidden = m_shape.hidden;
    const std::int64_t column = 2 * kMbVectors * kVectorBytes, phase = kernel * column;
    m_depth_weights = reserve_zeros(m_depthwise, m_chunks * kMbRows * phase);
    for (std::int64_t c = 0; c < hidden; ++c) {
        const std::int8_t* from = weights.depthwise + c * kernel * kernel;
        const std::int64_t chunk = c / kMbChunk, lane = c % kMbChunk;
        std::int8_t* to = m_depth_weights + chunk * kMbRows * phase + lane * 4;
        for (std::int64_t begin = 0; begin < kMbRows; ++begin)
            for (std::int64_t y = 0; y < kernel; ++y)
                for (std::int64_t x = 0; x < kernel; ++x) {
                    const std::int64_t row = begin + y;
                    to[begin * phase + x * column + row / kMbRows * kMbChunk * 4 + row % kMbRows] =
                        from[y * kernel + x];
                }
        float* values =
            &m_parameters[static_cast<std::size_t>(chunk * kMbParameters * kMbChunk + lane)];
        const MbRange middle{weights.hidden[2 * hidden + c], weights.hidden[3 * hidden + c]};
        const float step = weights.hidden[4 * hidden + c], bias = weights.hidden[5 * hidden + c];
        const float scale = middle.step() * step;
        const float sum = static_cast<float>(sum_of(from, kernel * kernel));
        const float shift = middle.low * step * sum + bias;
        values[kMbMiddleScale * kMbChunk] = middle.per_step();
        values[kMbMiddleBias * kMbChunk] = -middle.low * middle.per_step();
        values[kMbDepthScale * kMbChunk] = scale;
        values[kMbDepthBias * kMbChunk] = shift;
        values[kMbDepthExponentScale * kMbChunk] = -kLog2E * scale;
        values[kMbDepthExponentBias * kMbChunk] = -kLog2E * shift;
        m_zeros[static_cast<std::size_t>(c)] = byte_of_zero(middle);
    }
}

/// Panel after panel of up to 3 vectors: [hidden / 4, vectors, 16, 4].
void MbConv::pack_project(const MbConvWeights& weights) {
    const std::int64_t outputs = m_shape.out_channels, vectors = ceil_div(outputs, kMbLanes);
    const std::int64_t panels = ceil_div(vectors, kMbVectors);
    const std::int64_t depth = ceil_div(m_shape.hidden, kMbLanes) * kMbLanes;
    m_project_weights = reserve_zeros(m_project, vectors * kMbLanes * depth);
    m_output_values.assign(static_cast<std::size_t>(2 * vectors * kMbLanes), 0.0f);
    std::int8_t* to = m_project_weights;
    for (std::int64_t panel = 0, vector = 0; panel < panels; ++panel) {
        const std::int64_t size = ceil_div(vectors - vector, panels - panel);
        for (std::int64_t lane = 0; lane < size * kMbLanes; ++lane) {
            const std::int64_t n = vector * kMbLanes + lane;
            if (n >= outputs)
                break;
            const std::int8_t* from = weights.project + n * m_shape.hidden;
            for (std::int64_t k = 0; k < m_shape.hidden; ++k)
                to[k / 4 * size * kVectorBytes + lane * 4 + k % 4] = from[k];
            const float step = weights.output[n], bias = weights.output[outputs + n];
            const float sum = static_cast<float>(sum_of(from, m_shape.hidden));
            const auto at = static_cast<std::size_t>(n);
            m_output_values[at] = m_ranges.gated.step() * step;
            m_output_values[at + static_cast<std::size_t>(vectors * kMbLanes)] =
                m_ranges.gated.low * step * sum + bias;
        }
        to += depth * size * kMbLanes;
        vector += size;
    }
}

// -------------------- running

void MbConv::quantize(const float* floats, std::uint8_t* bytes) const {
    const std::int64_t channels = m_shape.in_channels, width = m_shape.in_width;
    const std::int64_t plane = m_shape.in_height * width;
    const float scale = m_ranges.input.per_step(), bias = -m_ranges.input.low * scale;
    for_each(m_shape.in_height, parallel_get_max_threads(), [&](std::int64_t row) {
        if (channels == 1) {
            m_kernel.quantize(floats + row * width, bytes + row * width, width, scale, bias);
            return;
        }
        std::uint8_t* line = thread_scratch(static_cast<std::size_t>(width));
        for (std::int64_t c = 0; c < channels; ++c) {
            m_kernel.quantize(floats + c * plane + row * width, line, width, scale, bias);
            for (std::int64_t x = 0; x < width; ++x)
                bytes[(row * width + x) * channels + c] = line[x];
        }
    });
}

/// Of some rows of the output, filled up to what the second pass takes at a time.
std::int64_t MbConv::padded_pixels(std::int64_t rows) const {
    return ceil_div(rows * m_shape.out_width, kMbPixels) * kMbPixels;
}

/// Adds to `sums`.
void MbConv::first_pass(Rows rows, const std::uint8_t* input, std::uint8_t* hidden,
                        std::int64_t* sums) const {
    const MbConvShape& shape = m_shape;
    const int threads = parallel_get_max_threads();
    const std::int64_t count = rows.end - rows.begin;
    const std::int64_t strips = strips_of(count, m_chunks, threads);
    const std::int64_t pixels = padded_pixels(count);
    const std::int64_t depth = shape.expand == 3 ? 12 : shape.in_channels;
    std::vector<std::int64_t> partial(static_cast<std::size_t>(strips * m_padded));
    for_each(m_chunks * strips, threads, [&](std::int64_t task) {
        const std::int64_t chunk = task % m_chunks, index = task / m_chunks;
        const auto channel = static_cast<std::size_t>(chunk * kMbChunk);
        const float per_step = m_ranges.row_mean.per_step();
        MbStrip strip{};
        strip.input = input;
        strip.in_height = shape.in_height;
        strip.in_width = shape.in_width;
        strip.in_channels = shape.in_channels;
        strip.height = shape.height;
        strip.width = shape.width;
        strip.expand = shape.expand;
        strip.expand_pad = shape.expand_pad;
        strip.expand_zero = byte_of_zero(m_ranges.input);
        strip.first_channel = chunk * kMbChunk;
        strip.channels = std::min(kMbChunk, shape.hidden - strip.first_channel);
        strip.vectors = ceil_div(strip.channels, kMbLanes);
        strip.expand_weights = m_expand_weights + chunk * kMbChunk * depth;
        strip.parameters = &m_parameters[channel * kMbParameters];
        strip.zeros = &m_zeros[channel];
        strip.depth_weights =
            m_depth_weights + chunk * kMbRows * shape.kernel * 2 * kMbVectors * kVectorBytes;
        strip.kernel = shape.kernel;
        strip.stride = shape.stride;
        strip.pad = shape.pad;
        strip.out_width = shape.out_width;
        strip.row_begin = rows.begin + count * index / strips;
        strip.row_end = rows.begin + count * (index + 1) / strips;
        strip.out_scale = m_ranges.depthwise.per_step();
        strip.out_bias = -m_ranges.depthwise.low * strip.out_scale;
        strip.output = hidden + chunk * kMbChunk * pixels;
        strip.out_row = rows.begin;
        strip.out_pixels = pixels;
        if (m_ranges.rounds_row_means) {
            const float width = static_cast<float>(shape.out_width);
            strip.mean_scale = m_ranges.depthwise.step() / width * per_step;
            strip.mean_bias = (m_ranges.depthwise.low - m_ranges.row_mean.low) * per_step;
        }
        strip.sums = &partial[static_cast<std::size_t>(index * m_padded) + channel];
        strip.scratch = thread_scratch(m_kernel.strip_scratch(strip));
        m_kernel.strip(strip);
    });
    for (std::int64_t i = 0; i < strips * m_padded; ++i)
        sums[i % m_padded] += partial[static_cast<std::size_t>(i)];
}

/// From sums of bytes to the factors that turn a byte into the gated tensor's.
void MbConv::set_gate(const MbConvGate& weights, const std::int64_t* sums, float* gate) const {
    const std::int64_t hidden = m_shape.hidden;
    const MbRange& range = m_ranges.rounds_row_means ? m_ranges.row_mean : m_ranges.depthwise;
    const std::int64_t count =
        m_shape.out_height * (m_ranges.rounds_row_means ? 1 : m_shape.out_width);
    std::vector<float> means(static_cast<std::size_t>(hidden)), exact(means.size());
    for (std::int64_t c = 0; c < hidden; ++c) {
        const double mean = static_cast<double>(sums[c]) / static_cast<double>(count);
        means[static_cast<std::size_t>(c)] = static_cast<float>(mean) * range.step() + range.low;
    }
    squeeze_excite(m_shape, weights, m_kernel.dot_rows, means.data(), exact.data());
    const float per_step = m_ranges.gated.per_step();
    std::fill_n(gate, 2 * m_padded, 0.0f);
    for (std::int64_t c = 0; c < hidden; ++c) {
        const float factor = rounded(exact[static_cast<std::size_t>(c)], m_ranges.gate);
        gate[c] = m_ranges.depthwise.step() * factor * per_step;
        gate[m_padded + c] = (m_ranges.depthwise.low * factor - m_ranges.gated.low) * per_step;
    }
}

void MbConv::second_pass(Rows rows, const std::uint8_t* hidden, const float* gate,
                         const std::uint8_t* shortcut, std::uint8_t* output,
                         float* float_output) const {
    const std::int64_t pixels = (rows.end - rows.begin) * m_shape.out_width;
    const std::int64_t before = rows.begin * m_shape.out_width;
    const std::int64_t vectors = ceil_div(m_shape.out_channels, kMbLanes);
    const int threads = parallel_get_max_threads();
    // Equal shares of at most kTileBytes, a multiple of what the kernel holds in registers.
    const std::int64_t depth = ceil_div(m_shape.hidden, kMbLanes) * kMbLanes;
    const std::int64_t most = std::max(kMbPixels, kTileBytes / depth / kMbPixels * kMbPixels);
    const std::int64_t tiles = ceil_div(ceil_div(pixels, most), threads) * threads;
    const std::int64_t tile = ceil_div(ceil_div(pixels, tiles), kMbPixels) * kMbPixels;
    for_each(ceil_div(pixels, tile), threads, [&](std::int64_t index) {
        MbProject project{};
        project.input = hidden;
        project.in_vectors = depth / kMbLanes;
        project.pixels = padded_pixels(rows.end - rows.begin);
        project.gate_scale = gate;
        project.gate_bias = gate + m_padded;
        project.weights = m_project_weights;
        project.out_vectors = vectors;
        project.out_channels = m_shape.out_channels;
        project.plane = m_shape.out_height * m_shape.out_width;
        project.scale = m_output_values.data();
        project.bias = m_output_values.data() + vectors * kMbLanes;
        project.inner_scale = m_ranges.inner.per_step();
        project.inner_bias = -m_ranges.inner.low * project.inner_scale;
        project.inner_back_scale = m_ranges.inner.step();
        project.inner_back_bias = m_ranges.inner.low;
        if (shortcut != nullptr)
            project.shortcut = shortcut + before * m_shape.out_channels;
        project.shortcut_scale = m_ranges.input.step();
        project.shortcut_bias = m_ranges.input.low;
        project.out_scale = m_ranges.output.per_step();
        project.out_bias = -m_ranges.output.low * project.out_scale;
        project.output = output + before * m_shape.out_channels;
        if (float_output != nullptr)
            project.float_output = float_output + before;
        project.pixel_begin = index * tile;
        project.pixel_end = std::min(pixels, project.pixel_begin + tile);
        project.scratch = thread_scratch(static_cast<std::size_t>(depth * tile));
        m_kernel.project(project);
    });
}

void MbConv::run(const MbConvGate& weights, const std::uint8_t* bytes, const float* floats,
                 std::uint8_t* output, float* float_output) const {
    const MbConvShape& shape = m_shape;
    // Parts of equal height, as few as the memory allows.
    const std::int64_t whole = m_padded * shape.out_height * shape.out_width;
    const std::int64_t height = ceil_div(shape.out_height, ceil_div(whole, m_most_hidden));
    const std::int64_t hidden_bytes = ceil_div(m_padded * padded_pixels(height), 64) * 64;
    const std::int64_t input_bytes =
        floats == nullptr ? 0 : shape.in_height * shape.in_width * shape.in_channels;
    MbWorkspace workspace;
    std::uint8_t* hidden = workspace.reserve(static_cast<std::size_t>(hidden_bytes + input_bytes));
    const std::uint8_t* input = bytes;
    if (floats != nullptr) {
        quantize(floats, hidden + hidden_bytes);
        input = hidden + hidden_bytes;
    }
    std::vector<std::int64_t> sums(static_cast<std::size_t>(m_padded));
    std::vector<float> gate(static_cast<std::size_t>(2 * m_padded));
    const auto part = [&](std::int64_t begin) {
        return Rows{begin, std::min(begin + height, shape.out_height)};
    };
    const std::int64_t last = (shape.out_height - 1) / height * height;
    for (std::int64_t begin = 0; begin <= last; begin += height)
        first_pass(part(begin), input, hidden, sums.data());
    set_gate(weights, sums.data(), gate.data());
    // The last part is still there; the gate of the others was not known when they were, and their
    // sums are of no use any more.
    for (std::int64_t begin = last; begin >= 0; begin -= height) {
        if (begin != last)
            first_pass(part(begin), input, hidden, sums.data());
        second_pass(part(begin), hidden, gate.data(), shape.shortcut ? input : nullptr, output,
                    float_output);
    }
}

}  // namespace mammofm
