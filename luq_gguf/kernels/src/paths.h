// Every path that was compiled in; null where the compiler's target is another architecture.
#pragma once

#include "layout.h"

namespace luq {

const Path * portable_t2();
const Path * portable_t5();
const Path * avx512();    // AVX-512 F, BW, VL, VNNI
const Path * avx512vl();  // the 256-bit kernels of AVX-VNNI in their AVX-512 encoding
const Path * avxvnni();
const Path * avx2();
const Path * neon();      // with dot products

}  // namespace luq
