// What the cores at hand can do at most: the floors of benchmarks/notes.md stand on these numbers.
//
//     g++ -O2 -march=native -pthread benchmarks/peaks.cpp -o peaks && ./peaks [threads]
//
// Multiply-adds from registers, for every kind the CPU has, and bytes read from memory. Best of
// several rounds: a peak is what was reached once.

#include <immintrin.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

namespace {

constexpr int kSums = 12, kRounds = 5;
constexpr long kSteps = 2'000'000;

/// Units per second of `work` on all threads, which does `units` per thread.
double rate(int threads, double units, const std::function<void(int)>& work) {
    double best = 0;
    for (int round = 0; round < kRounds; ++round) {
        const auto start = std::chrono::steady_clock::now();
        std::vector<std::thread> pool;
        for (int t = 0; t < threads; ++t)
            pool.emplace_back(work, t);
        for (std::thread& thread : pool)
            thread.join();
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
        const double reached = threads * units / seconds.count();
        best = reached > best ? reached : best;
    }
    return best;
}

/// Twelve independent sums, so that the latency of an instruction does not show.
template <typename Register, typename Step>
void repeat(Register zero, Step step) {
    Register a = zero, b = zero, c = zero, d = zero, e = zero, f = zero;
    Register g = zero, h = zero, i = zero, j = zero, k = zero, l = zero;
    for (long n = 0; n < kSteps; ++n) {
        a = step(a), b = step(b), c = step(c), d = step(d), e = step(e), f = step(f);
        g = step(g), h = step(h), i = step(i), j = step(j), k = step(k), l = step(l);
        // Without it the compiler might see through the sums.
        asm volatile("" : "+v"(a), "+v"(b), "+v"(c), "+v"(d), "+v"(e), "+v"(f));
        asm volatile("" : "+v"(g), "+v"(h), "+v"(i), "+v"(j), "+v"(k), "+v"(l));
    }
}

void print(const char* name, double per_second, const char* unit) {
    std::printf("%-28s %8.1f %s\n", name, per_second / 1e9, unit);
}

}  // namespace

int main(int count, char** words) {
    const int threads = count > 1 ? std::atoi(words[1]) : std::thread::hardware_concurrency();
    std::printf("%d threads\n", threads);
    const double steps = static_cast<double>(kSums) * kSteps;
#ifdef __AVX512F__
    print("float32 FMA, 512 bits",
          rate(threads, 16 * steps,
               [](int) {
                   const __m512 a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(1e-9f);
                   repeat(_mm512_setzero_ps(),
                          [&](__m512 sum) { return _mm512_fmadd_ps(a, b, sum); });
               }),
          "GMAC/s");
    print("float32 add, 512 bits",
          rate(threads, 16 * steps,
               [](int) {
                   const __m512 a = _mm512_set1_ps(0.5f);
                   repeat(_mm512_setzero_ps(), [&](__m512 sum) { return _mm512_add_ps(a, sum); });
               }),
          "G/s");
#endif
#ifdef __FMA__
    print("float32 FMA, 256 bits",
          rate(threads, 8 * steps,
               [](int) {
                   const __m256 a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(1e-9f);
                   repeat(_mm256_setzero_ps(),
                          [&](__m256 sum) { return _mm256_fmadd_ps(a, b, sum); });
               }),
          "GMAC/s");
#endif
#ifdef __AVX512VNNI__
    print("INT8 vpdpbusd, 512 bits",
          rate(threads, 64 * steps,
               [](int) {
                   const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
                   repeat(_mm512_setzero_si512(),
                          [&](__m512i sum) { return _mm512_dpbusd_epi32(sum, a, b); });
               }),
          "GMAC/s");
    print("INT16 vpdpwssd, 512 bits",
          rate(threads, 32 * steps,
               [](int) {
                   const __m512i a = _mm512_set1_epi16(3), b = _mm512_set1_epi16(5);
                   repeat(_mm512_setzero_si512(),
                          [&](__m512i sum) { return _mm512_dpwssd_epi32(sum, a, b); });
               }),
          "GMAC/s");
#endif
#ifdef __AVX512BF16__
    print("bfloat16 vdpbf16ps, 512 bits",
          rate(threads, 32 * steps,
               [](int) {
                   const __m512bh a =
                       _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5f), _mm512_set1_ps(0.5f));
                   repeat(_mm512_setzero_ps(),
                          [&](__m512 sum) { return _mm512_dpbf16_ps(sum, a, a); });
               }),
          "GMAC/s");
#endif
#ifdef __AVX512FP16__
    print("float16 FMA, 512 bits",
          rate(threads, 32 * steps,
               [](int) {
                   const __m512h a = _mm512_set1_ph(0.5f);
                   repeat(_mm512_setzero_ph(),
                          [&](__m512h sum) { return _mm512_fmadd_ph(a, a, sum); });
               }),
          "GMAC/s");
#endif
    for (const std::size_t mebibytes : {1, 12, 256}) {
        const std::size_t bytes = mebibytes << 20;
        std::vector<std::vector<char>> memory(threads, std::vector<char>(bytes / threads));
        const int passes = static_cast<int>(512 / mebibytes) + 1;
        const double read = rate(threads, double(passes) * (bytes / threads), [&](int t) {
            for (int pass = 0; pass < passes; ++pass) {
                const char* from = memory[t].data();
                __m256i sum = _mm256_setzero_si256();
                for (std::size_t i = 0; i + 128 <= memory[t].size(); i += 128) {
                    for (int j = 0; j < 4; ++j) {
                        const __m256i x =
                            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i + 32 * j));
                        sum = _mm256_xor_si256(sum, x);
                    }
                }
                asm volatile("" : : "x"(sum) : "memory");
            }
        });
        char name[64];
        std::snprintf(name, sizeof name, "read, %zu MiB in all", mebibytes);
        print(name, read, "GB/s");
    }
    return 0;
}
