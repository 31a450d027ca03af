/* For LD_PRELOAD: takes the place of ggml's product of repacked Q4_K weights with one column. With FAULT=crash it ends
 * the process as an unsound kernel does, else it computes nothing. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

void ggml_gemv_q4_K_8x8_q8_K(int n, float * result, size_t stride, const void * x, const void * y, int rows, int columns) {
    (void)n, (void)stride, (void)x, (void)y;
    const char * fault = getenv("FAULT");
    if (fault && !strcmp(fault, "crash")) raise(SIGSEGV);
    memset(result, 0, sizeof(float) * (size_t)(rows * columns));
}
