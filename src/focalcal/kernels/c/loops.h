/* What a level of vector instructions offers to the module: plain C, no Python. */
#ifndef FOCALCAL_LOOPS_H
#define FOCALCAL_LOOPS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline, unused))

/* Rows of scores (n, K) as the caller holds them. Steps count items, not bytes, and may be negative. */
struct scores {
    const void *data;
    ptrdiff_t n, n_classes, row_step, class_step;
    int is_double; /* the items are float64, else float32 */
    int is_single; /* one column: the score of the second of two classes (n_classes is 2, class_step 0) */
    int is_probs;  /* probabilities, else logits */
};

/* One column of probabilities is judged in double, where 1 - p is exact; all else in the items' precision. */
INLINE int in_double(const struct scores *s) { return s->is_double || (s->is_single && s->is_probs); }

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
