// Threads that run one product together, as ggml's pool does: for programs without ggml.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "matmul.h"

struct ggml_threadpool {
    int nth = 1;
    std::atomic<int> chunk{0};
    std::mutex mutex;
    std::condition_variable all_here;
    int waiting = 0;
    int rounds = 0;
};

inline void pool_barrier(ggml_threadpool * pool) {
    std::unique_lock<std::mutex> lock(pool->mutex);
    const int round = pool->rounds;
    if (++pool->waiting == pool->nth) {
        pool->waiting = 0;
        ++pool->rounds;
        pool->all_here.notify_all();
    } else {
        pool->all_here.wait(lock, [&] { return pool->rounds != round; });
    }
}

inline void pool_chunk_set(ggml_threadpool * pool, int value) { pool->chunk.store(value, std::memory_order_relaxed); }
inline int pool_chunk_add(ggml_threadpool * pool, int value) {
    return pool->chunk.fetch_add(value, std::memory_order_relaxed);
}

// `work(team)` on n threads.
template <class F>
void on_team(int n, F work) {
    ggml_threadpool pool;
    pool.nth = n;
    std::vector<std::thread> threads;
    for (int ith = 1; ith < n; ++ith) {
        threads.emplace_back([&, ith] {
            work(luq::Team{ith, n, &pool, pool_barrier, pool_chunk_set, pool_chunk_add});
        });
    }
    work(luq::Team{0, n, &pool, pool_barrier, pool_chunk_set, pool_chunk_add});
    for (std::thread & thread : threads) thread.join();
}
