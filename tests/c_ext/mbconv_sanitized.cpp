// TiledMBConv on buffers of exactly the sizes that it is promised, for a build with sanitizers.
// Argument: the instruction set. Prints one checksum per case; they do not depend on the threads.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "instruction_set.hpp"
#include "tiled_mbconv.hpp"
#include "tiled_mbconv_f32.hpp"
#include "tiled_mbconv_f32_kernel.hpp"
#include "tiled_mbconv_kernel.hpp"

namespace mammofm {
namespace {
InstructionSet chosen;
}
const InstructionSet& selected_instruction_set() {
    return chosen;
}
}  // namespace mammofm

namespace {

using mammofm::MbConv;
using mammofm::MbConvF32;
using mammofm::MbConvF32Weights;
using mammofm::MbConvGate;
using mammofm::MbConvRanges;
using mammofm::MbConvShape;
using mammofm::MbConvWeights;

std::mt19937 generator(1);

template <typename T>
std::vector<T> drawn(std::int64_t count, float low, float high) {
    std::uniform_real_distribution<float> values(low, high);
    std::vector<T> result(static_cast<std::size_t>(count));
    for (T& value : result)
        value = static_cast<T>(values(generator));
    return result;
}

std::uint64_t run(MbConvShape shape, bool floats, bool rounds_row_means) {
    const std::int64_t hidden = shape.hidden, outputs = shape.out_channels;
    const std::int64_t used = shape.expand == 3 ? 9 : shape.in_channels;
    const auto expand = drawn<std::int8_t>(shape.expand ? hidden * used : 0, -127, 127);
    const auto depthwise = drawn<std::int8_t>(hidden * shape.kernel * shape.kernel, -127, 127);
    const auto project = drawn<std::int8_t>(outputs * hidden, -127, 127);
    auto values = drawn<float>(6 * hidden, 0.001f, 0.003f);
    for (std::int64_t c = 0; c < hidden; ++c) {
        values[static_cast<std::size_t>(2 * hidden + c)] = -0.3f;
        values[static_cast<std::size_t>(3 * hidden + c)] = c == 0 ? -0.3f : 5.0f;  // one is empty
    }
    const auto output = drawn<float>(2 * outputs, 0.001f, 0.003f);
    const auto reduce = drawn<float>(shape.squeeze * hidden, -0.1f, 0.1f);
    const auto excite = drawn<float>(shape.squeeze * hidden, -0.5f, 0.5f);
    const auto reduce_bias = drawn<float>(shape.squeeze, -1, 1);
    const auto excite_bias = drawn<float>(hidden, -1, 1);
    const MbConvWeights weights{shape.expand ? expand.data() : nullptr, depthwise.data(),
                                project.data(), values.data(), output.data()};
    const MbConvGate gate{reduce.data(), reduce_bias.data(), excite.data(), excite_bias.data()};
    const MbConvRanges ranges{{-4, 4},    {-0.3f, 7}, {-0.3f, 4}, {0, 0.9f},
                              {-0.2f, 5}, {-3, 3},    {-6, 6},    rounds_row_means};
    const std::int64_t count = shape.in_channels * shape.in_height * shape.in_width;
    const auto bytes = drawn<std::uint8_t>(floats ? 0 : count, 0, 255);
    const auto planes = drawn<float>(floats ? count : 0, -5, 5);
    const auto pixels = static_cast<std::size_t>(shape.out_height * shape.out_width * outputs);
    // At once, and two or three rows at a time: the same.
    std::vector<std::uint8_t> found(pixels), again(pixels);
    std::vector<float> raw(pixels), raw_again(pixels);
    const auto answer = [&](const MbConv& block, std::vector<std::uint8_t>& to, float* values) {
        block.run(gate, floats ? nullptr : bytes.data(), floats ? planes.data() : nullptr,
                  to.data(), floats ? values : nullptr);
    };
    answer(MbConv(shape, ranges, weights), found, raw.data());
    answer(MbConv(shape, ranges, weights, 3 * shape.out_width * hidden), again, raw_again.data());
    if (again != found || raw_again != raw) {
        std::fprintf(stderr, "in parts the answer is another\n");
        std::exit(1);
    }
    std::uint64_t sum = 0;
    for (const std::uint8_t byte : found)
        sum = sum * 31 + byte;
    return sum;
}

/// The same in float32.
std::uint64_t run_f32(const MbConvShape& shape) {
    const std::int64_t hidden = shape.hidden, outputs = shape.out_channels;
    const std::int64_t used = shape.expand == 3 ? 9 : shape.in_channels;
    const auto expand = drawn<float>(shape.expand ? hidden * used : 0, -1, 1);
    const auto expand_bias = drawn<float>(shape.expand ? hidden : 0, -1, 1);
    const auto depthwise = drawn<float>(hidden * shape.kernel * shape.kernel, -1, 1);
    const auto depthwise_bias = drawn<float>(hidden, -1, 1);
    const auto project = drawn<float>(outputs * hidden, -1, 1);
    const auto project_bias = drawn<float>(outputs, -1, 1);
    const auto reduce = drawn<float>(shape.squeeze * hidden, -0.1f, 0.1f);
    const auto excite = drawn<float>(shape.squeeze * hidden, -0.5f, 0.5f);
    const auto reduce_bias = drawn<float>(shape.squeeze, -1, 1);
    const auto excite_bias = drawn<float>(hidden, -1, 1);
    const bool expands = shape.expand != 0;
    const MbConvF32 block(
        shape, MbConvF32Weights{expands ? expand.data() : nullptr, depthwise.data(), project.data(),
                                expands ? expand_bias.data() : nullptr, depthwise_bias.data(),
                                project_bias.data()});
    const MbConvGate gate{reduce.data(), reduce_bias.data(), excite.data(), excite_bias.data()};
    const auto input = drawn<float>(shape.in_channels * shape.in_height * shape.in_width, -2, 2);
    const auto pixels = static_cast<std::size_t>(shape.out_height * shape.out_width * outputs);
    std::vector<float> found(pixels), planes(pixels);
    block.run(gate, input.data(), found.data(), planes.data());
    std::uint64_t sum = 0;
    for (const float value : found) {
        std::uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        sum = sum * 31 + bits;
    }
    return sum;
}

}  // namespace

int main(int, char** arguments) {
    mammofm::chosen.name = arguments[1];
    const std::string& isa = mammofm::chosen.name;
    mammofm::chosen.mbconv_f32_kernel = isa == "avx512" ? &mammofm::avx512::mbconv_f32_kernel
                                        : isa == "avx2" ? &mammofm::avx2::mbconv_f32_kernel
                                                        : &mammofm::portable::mbconv_f32_kernel;
    const MbConvShape cases[] = {
        // channels, height, width; expand, pad; hidden, height, width; kernel, stride, pad;
        // squeeze; outputs, height, width; shortcut
        {24, 9, 13, 1, 0, 48, 9, 13, 3, 1, 1, 6, 24, 9, 13, true},
        {24, 9, 13, 1, 0, 144, 9, 13, 5, 2, 1, 6, 40, 5, 6, false},
        {8, 6, 7, 1, 0, 56, 6, 7, 5, 1, 2, 3, 176, 6, 7, false},
        {24, 7, 5, 0, 0, 24, 7, 5, 3, 1, 1, 6, 24, 7, 5, true},
        {40, 5, 6, 0, 0, 40, 5, 6, 3, 2, 0, 6, 16, 2, 2, false},
        {1, 60, 15, 3, 0, 48, 30, 8, 3, 1, 1, 6, 24, 30, 8, false},
        {1, 5, 5, 3, 1, 48, 3, 3, 3, 1, 1, 6, 8, 3, 3, false},
    };
    for (const MbConvShape& shape : cases) {
        std::printf("%llu\n", static_cast<unsigned long long>(run_f32(shape)));
        for (const bool row_means : {false, true}) {
            std::printf("%llu\n", static_cast<unsigned long long>(run(shape, false, row_means)));
            std::printf("%llu\n", static_cast<unsigned long long>(run(shape, true, row_means)));
        }
    }
}
