#include "dispatch.h"

#include <cstring>

#include "paths.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace luq {
namespace {

#if defined(__x86_64__)
bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && [] {
        unsigned a, b, c = 0, d;
        return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
    }();
}
bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}
bool has_avxvnni() {
    unsigned a = 0, b, c, d;
    return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
bool has_dotprod() { return false; }
#else
bool has_avx2() { return false; }
bool has_avx512() { return false; }
bool has_avxvnni() { return false; }
bool has_dotprod() {
#if defined(__aarch64__) && defined(__linux__)
    return getauxval(AT_HWCAP) >> 20 & 1;  // HWCAP_ASIMDDP
#elif defined(__aarch64__) && defined(__APPLE__)
    return true;
#else
    return false;
#endif
}
#endif

struct Candidate {
    const Path * (*path)();
    bool (*runs)();
    bool by_default;
};

bool always() { return true; }

// The best first. ggml's own kernels are faster than portable ones: those are for tests.
constexpr Candidate kCandidates[] = {
    {avx512, has_avx512, true}, {avxvnni, has_avxvnni, true},   {avx512vl, has_avx512, false},   {avx2, has_avx2, true},
    {neon, has_dotprod, true},  {portable_t2, always, false}, {portable_t5, always, false},
};

bool available(const Candidate & candidate) { return candidate.path() && candidate.runs(); }

}  // namespace

std::vector<const Path *> runnable_paths() {
    std::vector<const Path *> found;
    for (const Candidate & candidate : kCandidates) {
        if (available(candidate)) found.push_back(candidate.path());
    }
    return found;
}

Choice choose_path(const char * wish) {
    const bool wished = wish && *wish && std::strcmp(wish, "auto") != 0;
    if (wished && std::strcmp(wish, "off") == 0) return {nullptr, ""};
    const Path * best = nullptr;
    for (const Candidate & candidate : kCandidates) {
        if (!available(candidate)) continue;
        const Path * path = candidate.path();
        if (wished && std::strcmp(path->name, wish) == 0) return {path, ""};
        if (!best && candidate.by_default) best = path;
    }
    if (!best) return {nullptr, "This CPU has neither AVX2 nor NEON dot products; ggml's own kernels are used."};
    if (!wished) return {best, ""};
    return {best, std::string("LUQ_KERNELS=") + wish + " is not to be had on this CPU; " + best->name + " is used."};
}

}  // namespace luq
