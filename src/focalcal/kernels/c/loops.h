/* What a level of vector instructions offers to the module: plain C, no Python. */
#ifndef FOCALCAL_LOOPS_H
#define FOCALCAL_LOOPS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline, unused))

/* One set of loops, each for float64 and float32. */
struct loops {
    const char *name;
    int (*elementary_d)(int which, const double *in, double *out, ptrdiff_t n);
    int (*elementary_f)(int which, const float *in, float *out, ptrdiff_t n);
};

extern const struct loops loops_baseline;
#if defined(__x86_64__)
extern const struct loops loops_avx2, loops_avx512;
#endif

#endif
