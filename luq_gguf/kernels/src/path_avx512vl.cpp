// The kernels of AVX-VNNI in the encoding of AVX-512: taken when asked for, to try them on CPUs that have that only.
#include "paths.h"

#if defined(__AVX512VL__) && defined(__AVX512VNNI__) && defined(__FMA__) && defined(__F16C__)

#include "vnni256.h"

namespace luq {
namespace {

struct Evex {
    static __m256i bytes(__m256i sum, __m256i x, __m256i y) { return _mm256_dpbusd_epi32(sum, x, y); }
    static __m256i pairs(__m256i sum, __m256i x, __m256i y) { return _mm256_dpwssd_epi32(sum, x, y); }
};

constexpr Path kPath = {"avx512vl", Layout::t2, multiply_vector256<VnniOps<Evex>>, multiply_matrix256<VnniTile<Evex>>,
                        3};

}  // namespace

const Path * avx512vl() { return &kPath; }

}  // namespace luq

#else

const luq::Path * luq::avx512vl() { return nullptr; }

#endif
