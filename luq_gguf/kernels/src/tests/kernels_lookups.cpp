// kernels-lookups: how fast one thread can look rows of IQ1_M's grid up, with nothing computed on them. A layout of less
// than 1.96 bits a weight has to keep row numbers, so this bounds what any kernel for it could do.
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

using Clock = std::chrono::steady_clock;
constexpr int kNumbers = 4096;  // 8 KB of them: they stay in the first cache, as the grid's 16 KB do
alignas(64) uint64_t grid[2048];
alignas(64) uint16_t numbers[kNumbers];

uint64_t one_by_one() {
    uint64_t sum = 0;
    for (int i = 0; i < kNumbers; ++i) {
        uint64_t row;
        std::memcpy(&row, grid + numbers[i], sizeof row);
        sum += row;
    }
    return sum;
}

#if defined(__x86_64__)
// Four columns of 16 rows, as a kernel without sums across lanes needs them.
__attribute__((target("avx512f,avx512bw"))) uint64_t gathered() {
    __m512i sum = _mm512_setzero_si512();
    for (int i = 0; i < kNumbers; i += 16) {
        const __m512i at = _mm512_cvtepu16_epi32(_mm256_load_si256(reinterpret_cast<const __m256i *>(numbers + i)));
        sum = _mm512_add_epi32(sum, _mm512_i32gather_epi32(at, grid, 8));
        sum = _mm512_add_epi32(sum, _mm512_i32gather_epi32(at, reinterpret_cast<const char *>(grid) + 4, 8));
    }
    return static_cast<uint64_t>(_mm512_reduce_add_epi32(sum));
}
#endif

template <class F>
void measure(const char * name, F lookups) {
    volatile uint64_t sink = 0;
    double best = 0;
    for (int turn = 0; turn < 20; ++turn) {
        const Clock::time_point start = Clock::now();
        for (int i = 0; i < 1000; ++i) {
            asm volatile("" ::: "memory");
            sink = lookups();
        }
        const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
        const double rate = 1000.0 * kNumbers * 8 / seconds / 1e9;
        best = rate > best ? rate : best;
    }
    (void)sink;
    std::printf("%-11s %6.1f Gweights/s at most, one thread\n", name, best);
}

}  // namespace

int main() {
    std::mt19937_64 random(1);
    for (uint64_t & row : grid) row = random();
    for (uint16_t & number : numbers) number = static_cast<uint16_t>(random() % 2048);
    measure("one by one", one_by_one);
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512bw")) measure("gathered", gathered);
#endif
    return 0;
}
