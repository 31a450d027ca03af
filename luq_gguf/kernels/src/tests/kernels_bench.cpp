// kernels-bench ROWS COLUMNS N THREADS SECONDS: every path that this CPU runs, on random weights beyond its caches.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "dispatch.h"
#include "team.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kPage = size_t{2} << 20;

void from_float(const float * values, void * block, int64_t) {
    float * d = static_cast<float *>(block);
    int8_t * q = reinterpret_cast<int8_t *>(d + 1);
    *d = 1.0f;
    for (int i = 0; i < luq::kColumns; ++i) q[i] = static_cast<int8_t>(std::lrint(values[i]));
}

uint8_t * weights(size_t n_bytes) {
    void * memory = nullptr;
    if (posix_memalign(&memory, kPage, n_bytes) != 0) std::abort();
#if defined(__linux__)
    madvise(memory, n_bytes, MADV_HUGEPAGE);
#endif
    std::mt19937 random(1);
    for (size_t i = 0; i + 4 <= n_bytes; i += 4) {
        const unsigned word = random();
        std::memcpy(static_cast<char *>(memory) + i, &word, 4);
    }
    return static_cast<uint8_t *>(memory);
}

// Median of the seconds of one product.
double seconds(const luq::Path & path, const luq::Product & product, size_t n_matrices, size_t step, int threads,
               double limit) {
    std::vector<char> workspace(luq::workspace_bytes(product.ne[0], product.n_columns));
    std::vector<double> taken;
    on_team(threads, [&](const luq::Team & team) {
        const Clock::time_point start = Clock::now();
        bool go = true;
        for (size_t i = 0; go; ++i) {
            luq::Product one = product;
            one.weights += i % n_matrices * step;
            team.barrier(team.pool);
            const Clock::time_point begin = Clock::now();
            luq::multiply(path, from_float, one, team, workspace.data());
            team.barrier(team.pool);
            if (team.ith == 0) {
                taken.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
                team.chunk_set(team.pool, std::chrono::duration<double>(Clock::now() - start).count() < limit);
            }
            team.barrier(team.pool);
            go = team.chunk_add(team.pool, 0);
        }
    });
    std::nth_element(taken.begin(), taken.begin() + taken.size() / 2, taken.end());
    return taken[taken.size() / 2];
}

}  // namespace

int main(int argc, char ** argv) {
    if (argc != 6) return std::fprintf(stderr, "kernels-bench ROWS COLUMNS N THREADS SECONDS\n"), 2;
    const int n_rows = std::atoi(argv[1]), n_columns = std::atoi(argv[2]), n = std::atoi(argv[3]);
    const int threads = std::atoi(argv[4]);
    std::vector<float> activations(static_cast<size_t>(n) * n_columns), out(static_cast<size_t>(n) * n_rows);
    std::mt19937 random(2);
    for (float & a : activations) a = static_cast<float>(static_cast<int>(random() % 255) - 127);
    for (const luq::Path * path : luq::runnable_paths()) {
        if (std::strncmp(path->name, "portable", 8) == 0) continue;
        const size_t step = luq::superblock_bytes(path->layout) * (n_rows / luq::kRows) * (n_columns / luq::kColumns);
        const size_t n_matrices = std::max<size_t>(1, (size_t{256} << 20) / step);
        uint8_t * packed = weights(n_matrices * step);
        const char * values = reinterpret_cast<const char *>(activations.data());
        luq::Product product = {packed, n_rows, n_columns, values, {n, 1, 1}, {}, out.data()};
        product.nb[0] = sizeof(float) * n_columns;
        const double taken = seconds(*path, product, n_matrices, step, threads, std::atof(argv[5]));
        const double weights_each = static_cast<double>(n_rows) * n_columns;
        std::printf("%-9s n=%d t=%d  %7.1f Gweights/s  %5.1f GB/s  %6.1f GMAC/s\n", path->name, n, threads,
                    weights_each / taken / 1e9, step / taken / 1e9, weights_each * n / taken / 1e9);
        std::free(packed);
    }
    return 0;
}
