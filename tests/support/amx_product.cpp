// A product of two tiles by AMX, configured as ggml configures them: a local structure that only ldtilecfg reads. Ends
// with 0 where the product is right.
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

struct alignas(64) configuration {
    uint8_t palette, start_row, reserved[14];
    uint16_t colsb[16];
    uint8_t rows[16];
};

__attribute__((noinline)) static void fill_stack() {
    volatile char junk[4096];
    for (unsigned i = 0; i < sizeof junk; i++) junk[i] = -1;
}

__attribute__((noinline)) static void configure() {
    alignas(64) configuration tiles = {};
    tiles.palette = 1;
    for (int t = 0; t < 3; t++) tiles.rows[t] = 16, tiles.colsb[t] = 64;
    _tile_loadconfig(&tiles);
}

int main() {
    static int8_t a[16][64], b[16][64];
    static int32_t c[16][16];
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 64; j++) a[i][j] = (i * 7 + j * 3) % 100 - 50, b[i][j] = (i * 5 + j * 11) % 90 - 40;
    if (syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */)) return 2;
    fill_stack();
    configure();
    _tile_zero(0);
    _tile_loadd(1, a, 64);
    _tile_loadd(2, b, 64);
    _tile_dpbssd(0, 1, 2);
    _tile_stored(0, c, 64);
    int wrong = 0;
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            int32_t sum = 0;
            for (int k = 0; k < 16; k++)
                for (int i = 0; i < 4; i++) sum += a[m][4 * k + i] * b[k][4 * n + i];
            wrong += sum != c[m][n];
        }
    return wrong != 0;
}
