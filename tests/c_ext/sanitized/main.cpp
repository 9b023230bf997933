// The kernels of one instruction set (ISA) and the dispatcher under AddressSanitizer and
// UndefinedBehaviorSanitizer, on arrays without a byte to spare, against a plain float64 attention.
// It also counts what the second of two equal calls allocates, which must be nothing, and
// what a thread keeps, which must be 2 MB at most.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "instruction_set.hpp"
#include "tiled_attention.hpp"
#include "tiled_attention_kernel.hpp"

// Of the sanitizers' interface; not every compiler brings its header.
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*)(const volatile void*,
                                                                  std::size_t),
                                                         void (*)(const volatile void*));

namespace {

using mammofm::AttentionProblem;

long allocations = 0;

struct Case {
    std::int64_t batch, heads, queries, keys, depth;
    bool causal = false;
    std::int64_t window = -1;
    float scale = 0.125f;
    double shown = 1.0;   // share of keys that key_mask shows; 1: there is no mask
    float poison = 0.0f;  // added to one key
};

/// Exactly `count` floats: a read of one more is seen.
struct Floats {
    explicit Floats(std::size_t count) : size(count), data(new float[count]) {}
    std::size_t size;
    std::unique_ptr<float[]> data;
};

Floats normal(std::size_t count, std::mt19937& random) {
    std::normal_distribution<float> number;
    Floats floats(count);
    for (std::size_t i = 0; i < count; ++i)
        floats.data[i] = number(random);
    return floats;
}

bool sees(const AttentionProblem& p, std::int64_t batch, std::int64_t query, std::int64_t key) {
    const std::int64_t distance = query + p.keys - p.queries - key;
    if ((p.causal && distance < 0) || (p.window >= 0 && std::abs(distance) > p.window))
        return false;
    return p.key_mask == nullptr || p.key_mask[batch * p.keys + key] != 0;
}

std::vector<double> truth(const AttentionProblem& p, std::int64_t head, std::int64_t query) {
    std::vector<double> scores(p.keys, -std::numeric_limits<double>::infinity()), out(p.depth);
    const float* q = p.query + (head * p.queries + query) * p.depth;
    double highest = -std::numeric_limits<double>::infinity(), sum = 0;
    for (std::int64_t k = 0; k < p.keys; ++k) {
        if (!sees(p, head / p.heads, query, k))
            continue;
        scores[k] = 0;
        for (std::int64_t d = 0; d < p.depth; ++d)
            scores[k] += double(p.scale) * q[d] * p.key[(head * p.keys + k) * p.depth + d];
        highest = std::max(highest, scores[k]);
    }
    for (std::int64_t k = 0; k < p.keys; ++k) {
        if (!(scores[k] > -std::numeric_limits<double>::infinity()))
            continue;
        const double weight = std::exp(scores[k] - highest);
        sum += weight;
        for (std::int64_t d = 0; d < p.depth; ++d)
            out[d] += weight * p.value[(head * p.keys + k) * p.depth + d];
    }
    for (double& value : out)
        value /= sum > 0 ? sum : 1;
    return out;
}

/// The difference to the truth over the truth, as lengths; infinite where one is not finite.
double error(const AttentionProblem& p) {
    double difference = 0, size = 1e-30;
    for (std::int64_t head = 0; head < p.batch * p.heads; ++head) {
        for (std::int64_t query = 0; query < p.queries; ++query) {
            const std::vector<double> expected = truth(p, head, query);
            const float* got = p.output + (head * p.queries + query) * p.depth;
            for (std::int64_t d = 0; d < p.depth; ++d) {
                difference += (got[d] - expected[d]) * (got[d] - expected[d]);
                size += expected[d] * expected[d];
            }
        }
    }
    const double relative = std::sqrt(difference / size);
    return std::isfinite(relative) ? relative : std::numeric_limits<double>::infinity();
}

bool check(const Case& c, bool int8, const mammofm::InstructionSet& kernels, unsigned seed) {
    std::mt19937 random(seed);
    const std::size_t heads = c.batch * c.heads;
    const Floats query = normal(heads * c.queries * c.depth, random);
    const Floats key = normal(heads * c.keys * c.depth, random);
    const Floats value = normal(heads * c.keys * c.depth, random);
    Floats output(query.size);
    std::vector<std::uint8_t> mask(c.batch * c.keys);
    for (std::uint8_t& shown : mask)
        shown = std::uniform_real_distribution<>()(random) < c.shown;
    key.data[key.size - 1] += c.poison;
    AttentionProblem p{query.data.get(),
                       key.data.get(),
                       value.data.get(),
                       c.shown < 1 ? mask.data() : nullptr,
                       output.data.get(),
                       c.batch,
                       c.heads,
                       c.queries,
                       c.keys,
                       c.depth,
                       c.causal,
                       c.window,
                       c.scale,
                       int8};
    mammofm::tiled_attention(p, kernels);
    const long before = allocations;
    mammofm::tiled_attention(p, kernels);
    const long allocated = allocations - before;
    const double relative = error(p), limit = int8 && c.queries >= 32 ? 2e-2 : 1e-5;
    const bool poisoned = !std::isfinite(c.poison);
    const bool good = allocated == 0 && (relative < limit) != poisoned;
    if (!good)
        std::printf(
            "%s [%ld,%ld,%ld,%ld,%ld] causal %d window %ld scale %g shown %g: error %g, "
            "%ld allocations\n",
            int8 ? "int8" : "float32", long(c.batch), long(c.heads), long(c.queries), long(c.keys),
            long(c.depth), c.causal, long(c.window), double(c.scale), c.shown, relative, allocated);
    return good;
}

std::vector<Case> cases() {
    std::vector<Case> all = {
        {1, 1, 1, 1, 1},
        {1, 2, 1, 300, 64},
        {1, 1, 1, 1100, 40, false, -1, 0.125f, 0.7},  // split over keys
        {2, 1, 3, 600, 33, true},
        {1, 1, 70, 130, 64},
        {1, 1, 40, 600, 64, false, -1, 0.125f, 0.5},
        {1, 1, 193, 250, 32, true, 30},
        {1, 2, 100, 20, 48, true},  // rows that see nothing
        {1, 1, 580, 90, 17},
        {2, 1, 64, 121, 5, false, 3, -0.3f, 0.6},
        {1, 1, 48, 75, 256},
        {1, 1, 33, 75, 129, false, 10},
        {1, 1, 50, 77, 64, false, -1, 1e-33f},
        {1, 1, 50, 77, 64, false, -1, 0.125f, 0.0},
        {1, 1, 50, 77, 64, false, -1, 0.125f, 1.0, std::nanf("")},
        {1, 1, 50, 77, 64, false, -1, 0.0f},
    };
    std::mt19937 random(7);
    const auto up_to = [&](int most) { return std::int64_t(1 + random() % most); };
    for (int i = 0; i < 25; ++i)
        all.push_back({up_to(2), up_to(2), up_to(150), up_to(300), up_to(80), random() % 2 == 0,
                       random() % 2 ? -1 : up_to(60), 0.125f, random() % 2 ? 1.0 : 0.6});
    return all;
}

}  // namespace

int main() {
    __sanitizer_install_malloc_and_free_hooks(
        [](const volatile void*, std::size_t) { ++allocations; }, [](const volatile void*) {});
    const mammofm::InstructionSet kernels{"", &mammofm::ISA::tiled_attention_kernel,
                                          &mammofm::ISA::tiled_attention_int8_kernel, nullptr, ""};
    const std::size_t scratch = kernels.kernel->scratch_floats(mammofm::kMaxDepth) +
                                kernels.int8_kernel->scratch_floats(mammofm::kMaxDepth);
    unsigned failed = scratch * sizeof(float) <= 2'000'000 ? 0 : 1, seed = 0;
    for (const Case& c : cases()) {
        failed += !check(c, /*int8=*/false, kernels, ++seed);
        failed += !check(c, /*int8=*/true, kernels, seed);
    }
    std::printf("%u of %u failed\n", failed, 2 * seed);
    return failed == 0 ? 0 : 1;
}
