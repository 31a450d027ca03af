/* Included before every C++ source of ggml-cpu (vendor/llama.cpp.cmake).
 *
 * GCC's _tile_loadconfig tells the compiler that the instruction reads 8 bytes of its 64-byte operand. With optimization
 * GCC 12 then drops the stores of rows and columns that come before it, ldtilecfg sees an invalid configuration, and the
 * process ends with a segmentation fault as soon as a matrix lies in the AMX buffer (llama.cpp issue 20824). Here the
 * compiler is told of all 64 bytes. Harmless where the intrinsic is sound.
 */
#if defined(__AMX_TILE__) && defined(__GNUC__)
#include <immintrin.h>

static inline __attribute__((always_inline)) void luq_tile_loadconfig(const void * config) {
    typedef struct { char bytes[64]; } configuration;
    __asm__ volatile("" : : "m"(*(const configuration *) config) : "memory");
    _tile_loadconfig(config);
}

#define _tile_loadconfig(config) luq_tile_loadconfig(config)
#endif
