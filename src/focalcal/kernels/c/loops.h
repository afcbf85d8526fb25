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

/* Sums over the rows of each bin; class-wise ones have a row of bins for each class. */
struct bin_sums {
    double *count, *confidence, *hit;
    double *weight, *weight2; /* NULL where every row weighs 1 */
};

/* What judging adds to: see Judged in focalcal/judging.py. Every array starts at zero. */
struct judging {
    const int64_t *codes;
    const double *weight; /* NULL: every row weighs 1 */
    double tolerance;     /* how far a row of probabilities may be from summing to one */
    const double *edges;  /* bins + 1 of them, exact in the precision of the scores */
    ptrdiff_t bins;
    double margin; /* see edge_margin; the loops set it */
    double *totals; /* TOTALS of them */
    struct bin_sums top, classwise;
    int with_classes;
    void *signed_confidence; /* a number a row in the precision of the scores; NULL if not wanted */
};

/* Sum of w, of w²; then for each score x the sums of w x, w² x and (w x)²; then counts of rows. */
enum { SUM_WEIGHT, SUM_WEIGHT2, SUM_NLL, SUM_BRIER = SUM_NLL + 3, SUM_HIT = SUM_BRIER + 3, FLOORED = SUM_HIT + 3,
       IMPOSSIBLE, TOTALS };

/* The focal calibration map of softmax(z / temperature); gamma = 0 is the identity. */
struct mapping {
    double temperature, gamma, tolerance;
    int exponentiate; /* write probabilities, else their logarithms */
    void *out;        /* (n, K), row by row, in the precision of the scores */
};

/* What a loop returns: INVALID for scores that the checks in Python will name. */
enum { DONE = 0, INVALID = 1, NO_MEMORY = -1, WRONG_CODE = -2 };

/* The sums of a fit, FIT_SUMS numbers: tile.h. */
enum { FIT_SUMS = 11 };
typedef int survey_function(const struct scores *s, const int64_t *codes, const double *weight, double *out);
typedef int fit_function(const struct scores *s, const int64_t *codes, const double *weight, double log_temperature,
                         double gamma, double *sums);

/* A training loss of one label a row, over contiguous arrays; kinds and reductions as in nn/_compiled.py. */
enum { FOCAL, INVERSE, DUAL, BRIER }; /* FOCAL with γ < 0: inverse focal of |γ| */
enum { MEAN, SUM, EACH_ROW };

/* What backward needs of a row: the gradient is exp(z - most) * factor, but `own` at the label. `other` is added at
 * the rival's place or, for the Brier score, multiplies exp(z - most)². */
struct kept_row {
    double most, factor, own, other, place;
};

struct training {
    ptrdiff_t n, n_classes;
    int kind, reduction;
    const void *logits;     /* (n, K) of REAL */
    const int64_t *labels;
    const void *weight;     /* (K,) of REAL; NULL: every class weighs 1 */
    long long ignore_index;
    double gamma;           /* or, with `steps`, γ by the label's probability: steps[b] from edges[b - 1] on */
    ptrdiff_t edge_count;
    const double *edges, *steps;
    struct kept_row *kept;  /* n of them */
    double *total;          /* the labels' weights, summed */
    void *out;              /* of REAL: forward, one loss or n; backward, (n, K) */
    const void *upstream;   /* backward: gradients of the result, of REAL, `upstream_step` apart (0 for one) */
    ptrdiff_t upstream_step;
};
typedef int loss_function(const struct training *l);

/* The inverse of the focal calibration map, and its gradient, over contiguous arrays of REAL. */
struct inversion {
    ptrdiff_t n, n_classes;
    double gamma;
    const void *rows;     /* (n, K): logits, or for the gradient log q */
    const void *upstream; /* (n, K): gradients in log q */
    void *out;            /* (n, K): log q, or gradients in the logits */
};
typedef int inverse_function(const struct inversion *l);

/* One set of loops, each for float64 and float32. */
struct loops {
    const char *name;
    int (*elementary_d)(int which, const double *in, double *out, ptrdiff_t n);
    int (*elementary_f)(int which, const float *in, float *out, ptrdiff_t n);
    fit_function *fit_sums_d, *fit_sums_f;
    survey_function *survey_d, *survey_f;
    loss_function *loss_forward_d, *loss_forward_f, *loss_backward_d, *loss_backward_f;
    inverse_function *inverse_rows_d, *inverse_rows_f, *inverse_pull_d, *inverse_pull_f;
    int (*judge_d)(const struct scores *s, struct judging *to);
    int (*judge_f)(const struct scores *s, struct judging *to);
    int (*map_rows_d)(const struct scores *s, const struct mapping *map);
    int (*map_rows_f)(const struct scores *s, const struct mapping *map);
};

extern const struct loops loops_baseline;
#if defined(__x86_64__)
extern const struct loops loops_avx2, loops_avx512;
#endif

#endif
