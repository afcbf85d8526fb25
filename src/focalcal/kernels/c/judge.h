/* What metrics need of a block of rows; a template, see simd.h. judging.py says what it computes.
 *
 * Up to ROWS rows are reduced to one number each for the top class and the rest. The top class stays out of
 * every sum over the rest, so that 1 - p of a confident row keeps all its digits. For logits the numbers are
 * relative to the largest: exp(z_j - z_max); for probabilities they are the probabilities. */

struct NAME(judged) {
    REAL highest[ROWS];  /* the top class: its logit or its probability */
    REAL top[ROWS];      /* its column, where lanes are rows */
    REAL others[ROWS];   /* sum over the other classes */
    REAL squares[ROWS];  /* sum of squares over the other classes */
    REAL label[ROWS];    /* the label's logit */
    REAL own[ROWS];      /* the label's number, beside which the top class has 1 or its probability */
    REAL inverse[ROWS];  /* times which a number is the class's probability */
    double hit[ROWS];    /* 1 where the top class is the label, else 0 */
    double weight[ROWS]; /* 0 beyond the last row */
};

/* What an entry must be: below +inf, or within [0, 1 + tolerance]. Neither holds for NaN. */
INLINE MASK NAME(allowed)(VEC x, int is_probs, REAL most) {
    return is_probs ? (MASK)(x >= (REAL)0) & (MASK)(x <= most) : (MASK)(x < most);
}

/* Whether all is allowed, where lanes are rows: each entry, some class of each row, and the row's sum. */
INLINE int NAME(check_columns)(const REAL *x, ptrdiff_t k, int is_probs, double tolerance) {
    REAL most = is_probs ? (REAL)(1 + tolerance) : (REAL)INFINITY;
    MASK fine = (MASK)(NAME(splat)(0) == (REAL)0);
    for (int i = 0; i < ROWS; i += LANES) {
        VEC highest = NAME(splat)((REAL)-INFINITY), sum = NAME(splat)(0);
        for (ptrdiff_t j = 0; j < k; j++) {
            VEC z = NAME(load)(x + j * ROWS + i);
            fine &= NAME(allowed)(z, is_probs, most);
            highest = NAME(max)(highest, z);
            sum += z;
        }
        VEC off = sum - (REAL)1;
        fine &= is_probs ? (MASK)(NAME(max)(off, -off) <= (REAL)tolerance) : (MASK)(highest > (REAL)-INFINITY);
    }
    return NAME(any)(~fine) ? INVALID : DONE;
}

/* Few classes: lanes are rows. `x` holds checked scores class by class and is left holding the numbers. */
INLINE void NAME(judge_columns)(REAL *x, ptrdiff_t k, int is_probs, const int64_t *codes, ptrdiff_t count,
                                struct NAME(judged) *to) {
    for (int i = 0; i < ROWS; i += LANES) {
        VEC highest = NAME(splat)((REAL)-INFINITY), top = NAME(splat)(0);
        for (ptrdiff_t j = 0; j < k; j++) {
            VEC z = NAME(load)(x + j * ROWS + i);
            if (is_probs) {
                z = NAME(min)(z, NAME(splat)(1));
                NAME(store)(x + j * ROWS + i, z);
            }
            MASK above = (MASK)(z > highest);
            highest = NAME(select)(above, z, highest);
            top = NAME(select)(above, NAME(splat)((REAL)j), top);
        }
        NAME(store)(to->highest + i, highest);
        NAME(store)(to->top + i, top);
    }
    for (ptrdiff_t r = 0; r < count; r++) to->label[r] = x[codes[r] * ROWS + r];
    for (ptrdiff_t r = 0; r < count; r++) to->hit[r] = to->top[r] == (REAL)(int32_t)codes[r];
    for (int i = 0; i < ROWS; i += LANES) {
        VEC highest = NAME(load)(to->highest + i), top = NAME(load)(to->top + i);
        VEC others = NAME(splat)(0), squares = NAME(splat)(0);
        for (ptrdiff_t j = 0; j < k; j++) {
            VEC e = NAME(load)(x + j * ROWS + i);
            if (!is_probs) {
                e = NAME(exp_low)(e - highest);
                NAME(store)(x + j * ROWS + i, e);
            }
            e = NAME(only)((MASK)(top != (REAL)j), e);
            others += e;
            squares += e * e;
        }
        NAME(store)(to->others + i, others);
        NAME(store)(to->squares + i, squares);
    }
    for (ptrdiff_t r = 0; r < count; r++) to->own[r] = x[codes[r] * ROWS + r];
}

/* The largest of n numbers, n a multiple of LANES; NaN and what is not allowed clear `fine`. */
INLINE REAL NAME(highest_of)(REAL *x, ptrdiff_t n, int is_probs, double tolerance, int *fine) {
    REAL most = is_probs ? (REAL)(1 + tolerance) : (REAL)INFINITY;
    MASK good = (MASK)(NAME(splat)(0) == (REAL)0);
    VEC highest = NAME(splat)((REAL)-INFINITY), other = highest;
    NAME(wide) sum = NAME(widen)(NAME(splat)(0));
    ptrdiff_t i = 0;
    for (; !is_probs && i + 2 * LANES <= n; i += 2 * LANES) {
        VEC a = NAME(load)(x + i), b = NAME(load)(x + i + LANES);
        good &= NAME(allowed)(a, 0, most) & NAME(allowed)(b, 0, most);
        highest = NAME(max)(highest, a);
        other = NAME(max)(other, b);
    }
    for (; i < n; i += LANES) {
        VEC a = NAME(load)(x + i);
        good &= NAME(allowed)(a, is_probs, most);
        if (is_probs) {
            sum = NAME(wide_add)(sum, NAME(widen)(a));
            a = NAME(min)(a, NAME(splat)(1));
            NAME(store)(x + i, a);
        }
        highest = NAME(max)(highest, a);
    }
    REAL largest = NAME(largest)(NAME(max)(highest, other));
    *fine &= !NAME(any)(~good) && largest > (REAL)-INFINITY;
    if (is_probs) *fine &= fabs(NAME(wide_sum)(sum) - 1) <= tolerance;
    return largest;
}

/* The first of n numbers that equals `value`, which is among them. */
INLINE ptrdiff_t NAME(find)(const REAL *x, ptrdiff_t n, REAL value) {
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        uint64_t bits = NAME(mask_bits)((MASK)(NAME(load)(x + i) == value));
        if (bits) return i + __builtin_ctzll(bits);
    }
    return 0;
}

/* Many classes: lanes are classes. One padded row `x`, the r-th of its block, left holding the numbers.
 * Return the column of the top class, and in `runner_up` the largest number beside it. */
INLINE ptrdiff_t NAME(judge_row)(REAL *x, ptrdiff_t n, int is_probs, int64_t code, ptrdiff_t r,
                                 struct NAME(judged) *to, REAL *runner_up) {
    REAL highest = to->highest[r];
    ptrdiff_t top = NAME(find)(x, n, highest);
    to->label[r] = x[code];
    to->hit[r] = top == code;
    x[top] = is_probs ? (REAL)0 : (REAL)-INFINITY;
    NAME(wide) others = NAME(widen)(NAME(splat)(0)), squares = others;
    VEC second = NAME(splat)(0);
    for (ptrdiff_t chunk = 0; chunk < n; chunk += 128) { /* in REAL for a while, then in double */
        ptrdiff_t end = chunk + 128 < n ? chunk + 128 : n;
        VEC sum = NAME(splat)(0), square = NAME(splat)(0);
        for (ptrdiff_t i = chunk; i < end; i += LANES) {
            VEC e = NAME(load)(x + i);
            if (!is_probs) {
                e = NAME(exp_low)(e - highest);
                NAME(store)(x + i, e);
            }
            sum += e;
            square += e * e;
            second = NAME(max)(second, e);
        }
        others = NAME(wide_add)(others, NAME(widen)(sum));
        squares = NAME(wide_add)(squares, NAME(widen)(square));
    }
    x[top] = is_probs ? highest : (REAL)1;
    to->others[r] = (REAL)NAME(wide_sum)(others);
    to->squares[r] = (REAL)NAME(wide_sum)(squares);
    to->own[r] = x[code];
    *runner_up = NAME(largest)(second);
    return top;
}

/* The one column of scores of two classes: finite logits, or probabilities. Loading it clips them. */
INLINE int NAME(check_single)(const struct scores *s, ptrdiff_t first, ptrdiff_t count, double tolerance) {
    for (ptrdiff_t r = first; r < first + count; r++) {
        double x = s->is_double ? ((const double *)s->data)[r * s->row_step]
                                : ((const float *)s->data)[r * s->row_step];
        if (s->is_probs ? !(x >= 0 && x <= 1 + tolerance) : !(fabs(x) < INFINITY)) return INVALID;
    }
    return DONE;
}
