// AVX-VNNI: CPUs with AVX2 and dot products, but without AVX-512.
#include "paths.h"

#if defined(__AVXVNNI__) && defined(__FMA__) && defined(__F16C__)

#include "vnni256.h"

namespace luq {
namespace {

struct Vex {
    static __m256i bytes(__m256i sum, __m256i x, __m256i y) { return _mm256_dpbusd_avx_epi32(sum, x, y); }
    static __m256i pairs(__m256i sum, __m256i x, __m256i y) { return _mm256_dpwssd_avx_epi32(sum, x, y); }
};

constexpr Path kPath = {"avxvnni", Layout::t2, multiply_vector256<VnniOps<Vex>>, multiply_matrix256<VnniTile<Vex>>,
                        3};

}  // namespace

const Path * avxvnni() { return &kPath; }

}  // namespace luq

#else

const luq::Path * luq::avxvnni() { return nullptr; }

#endif
