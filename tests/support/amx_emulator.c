/* Intel's AMX instructions on an x86-64 CPU without them, for tests: a library for LD_PRELOAD that computes them when the
 * CPU refuses them (SIGILL), and that answers the kernel's question for permission. As on real hardware a tile
 * configuration that is not valid ends the process with SIGSEGV (#GP), and a tile that is not configured with SIGILL
 * (#UD). Encodings and checks: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, "LDTILECFG",
 * "TILELOADD", "TDPBSSD"; volume 1, chapter 18. Slow, and right.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_REQ_XCOMP_PERM 0x1023

struct configuration {
    uint8_t palette, start_row, reserved_0[14];
    uint16_t colsb[8], reserved_1[8];
    uint8_t rows[8], reserved_2[8];
};

static __thread struct configuration tiles;
static __thread uint8_t tmm[8][16][64];

static const int REGISTERS[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                  REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

long syscall(long number, ...) {
    va_list arguments;
    long a[6];
    va_start(arguments, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(arguments, long);
    va_end(arguments);
    if (number == SYS_arch_prctl && a[0] == ARCH_REQ_XCOMP_PERM) return 0;
    static long (*real)(long, ...);
    if (!real) real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

static void die(int number) {
    signal(number, SIG_DFL);
    sigset_t only;
    sigemptyset(&only);
    sigaddset(&only, number);
    pthread_sigmask(SIG_UNBLOCK, &only, 0);
    raise(number);
}

static int is_zero(const uint8_t * bytes, int n) {
    for (int i = 0; i < n; i++)
        if (bytes[i]) return 0;
    return 1;
}

static int is_valid(const struct configuration * c) {
    if (c->palette != 1 || !is_zero(c->reserved_0, 14) || !is_zero((const uint8_t *)c->reserved_1, 16)) return 0;
    if (!is_zero(c->reserved_2, 8)) return 0;
    for (int t = 0; t < 8; t++)
        if (c->rows[t] > 16 || c->colsb[t] > 64 || !c->rows[t] != !c->colsb[t]) return 0;
    return 1;
}

static void load_configuration(const void * at) {
    struct configuration c;
    memcpy(&c, at, sizeof c);
    if (c.palette == 0) memset(&c, 0, sizeof c);
    else if (!is_valid(&c)) die(SIGSEGV);
    tiles = c;
    memset(tmm, 0, sizeof tmm);
}

/* c += a . b in groups of four bytes; which of them are signed is in the instruction's prefix. */
static void multiply(int c, int a, int b, int a_signed, int b_signed) {
    int n_rows = tiles.rows[c], n_columns = tiles.colsb[c] / 4, n_inner = tiles.colsb[a] / 4;
    if (tiles.rows[a] != n_rows || tiles.colsb[b] != tiles.colsb[c] || tiles.rows[b] != n_inner) die(SIGILL);
    for (int m = 0; m < n_rows; m++)
        for (int k = 0; k < n_inner; k++)
            for (int n = 0; n < n_columns; n++) {
                int32_t sum;
                memcpy(&sum, &tmm[c][m][4 * n], 4);
                for (int i = 0; i < 4; i++) {
                    uint8_t x = tmm[a][m][4 * k + i], y = tmm[b][k][4 * n + i];
                    sum += (a_signed ? (int8_t)x : x) * (b_signed ? (int8_t)y : y);
                }
                memcpy(&tmm[c][m][4 * n], &sum, 4);
            }
}

static void require(int tile) {
    if (!tiles.palette || !tiles.rows[tile]) die(SIGILL);
}

static void on_illegal(int number, siginfo_t * info, void * context) {
    (void)info;
    greg_t * registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t * code = (const uint8_t *)registers[REG_RIP];
    if (code[0] != 0xC4 || (code[1] & 31) != 2 || (code[2] & 0x84)) die(number); /* VEX, map 0F38, W0, L0 */
    int r = !(code[1] & 0x80) << 3, x = !(code[1] & 0x40) << 3, b = !(code[1] & 0x20) << 3;
    int prefix = code[2] & 3, v = ~code[2] >> 3 & 15, opcode = code[3], mod = code[4] >> 6, middle = code[4] >> 3 & 7;
    int low = code[4] & 7;
    const uint8_t * end = code + 5;
    uint8_t * address = 0;
    int64_t stride = 0;
    if (mod != 3) {
        int64_t base = 0, displacement = 0;
        int relative = 0;
        if (low == 4) {
            int scale = *end >> 6, index = (*end >> 3 & 7) | x, register_ = *end & 7;
            end++;
            if (index != 4) stride = registers[REGISTERS[index]] << scale;
            if (register_ == 5 && mod == 0) displacement = *(const int32_t *)end, end += 4;
            else base = registers[REGISTERS[register_ | b]];
        } else if (low == 5 && mod == 0) {
            displacement = *(const int32_t *)end, end += 4, relative = 1;
        } else {
            base = registers[REGISTERS[low | b]];
        }
        if (mod == 1) displacement = *(const int8_t *)end, end += 1;
        if (mod == 2) displacement = *(const int32_t *)end, end += 4;
        address = (uint8_t *)(base + displacement + (relative ? (int64_t)end : 0));
    }
    if (opcode == 0x49 && mod != 3 && prefix == 0) {
        load_configuration(address + stride);
    } else if (opcode == 0x49 && mod != 3 && prefix == 1) {
        memcpy(address + stride, &tiles, sizeof tiles);
    } else if (opcode == 0x49 && mod == 3 && prefix == 0) {
        memset(&tiles, 0, sizeof tiles);
    } else if (opcode == 0x49 && mod == 3 && prefix == 3) {
        require(middle | r);
        memset(tmm[middle | r], 0, sizeof tmm[0]);
    } else if (opcode == 0x4B && mod != 3 && prefix) {
        int tile = middle | r;
        require(tile);
        for (int row = 0; row < tiles.rows[tile]; row++) {
            if (prefix == 2) memcpy(address + row * stride, tmm[tile][row], tiles.colsb[tile]);
            else memcpy(tmm[tile][row], address + row * stride, tiles.colsb[tile]);
        }
    } else if (opcode == 0x5E && mod == 3) {
        int a = low | b, second = v;
        require(middle | r), require(a), require(second);
        multiply(middle | r, a, second, prefix >= 2, prefix == 3 || prefix == 1);
    } else {
        die(number);
    }
    registers[REG_RIP] = (greg_t)end;
}

__attribute__((constructor)) static void install(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_illegal;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGILL, &action, 0);
}
