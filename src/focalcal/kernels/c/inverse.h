/* The inverse of the focal calibration map on rows of logits, for γ >= 0, and its gradient; a template, see
 * simd.h. nn/_inverse.py derives both.
 *
 * Unknown are t, the log-odds against the top class m, and log q of the others, where
 * log h(q_j) = z_j - z_m + log h(q_m). Newton's method moves all of them in one pass over the row. A row for
 * which it does not end is left to torch, where the steps are nested and safeguarded. */

#if REAL_IS_DOUBLE
enum { INVERSE_STEPS = 40 };

/* log h of the top class and its slope in its log-odds s = -t. */
INLINE double top_inverse(double t, double gamma, double *slope) {
    double e = exp(-fabs(t)), lost = log1p(e), low = e / (1 + e), high = 1 / (1 + e);
    double log_q = -(t > 0 ? t : 0) - lost, log_u = (t < 0 ? t : 0) - lost; /* log q and log (1 - q) */
    double q = t > 0 ? low : high, u = t > 0 ? high : low;
    double ratio = t < -40 ? 1 : -log_q / u, weight = 1 + gamma * q * ratio;
    *slope = u + q * (gamma - 1 + (1 + gamma - gamma * ratio * u) / weight);
    return log_q - gamma * log_u - log(weight);
}
#define ROOT_EPSILON 1e-9
#else
#undef ROOT_EPSILON
#define ROOT_EPSILON 1e-4f /* a Newton step as short leaves an error of its square */
#endif

/* log h(q) and its slope in log q, for log q <= log ½. */
INLINE VEC NAME(other_inverse)(VEC log_q, REAL gamma, VEC *slope) {
    VEC x = NAME(max)(log_q, NAME(splat)((REAL)-1e30)), q = NAME(exp_low)(x); /* 0 log 0 is 0 */
    VEC d = (REAL)1 - q - gamma * q * x;
    *slope = (REAL)1 + q * ((gamma - (REAL)1) / ((REAL)1 - q) + ((REAL)1 + gamma + gamma * x) / d);
    return x + ((REAL)1 - gamma) * NAME(log_half)(q) - NAME(log)(d);
}

/* What a step over the others of a row sums up. */
struct NAME(inverse_sums) {
    double total, bend; /* of q, and of q over its slope */
    int moved;
};

/* One step of Newton's method for log q of the others, given log h of the top class. */
INLINE struct NAME(inverse_sums) NAME(inverse_step)(REAL *x, const REAL *below, ptrdiff_t padded, double log_h,
                                                    double gamma) {
    NAME(wide) total = NAME(widen)(NAME(splat)(0)), bend = total;
    MASK moved = (MASK)(NAME(splat)(0) > NAME(splat)(1));
    for (ptrdiff_t i = 0; i < padded; i += LANES) {
        VEC slope, old = NAME(load)(x + i), wanted = NAME(load)(below + i);
        VEC value = NAME(other_inverse)(old, (REAL)gamma, &slope);
        VEC new = old + (wanted + (REAL)log_h - value) / slope;
        new = NAME(max)(NAME(min)(new, NAME(splat)((REAL)LOG_HALF)), NAME(splat)((REAL)-1e30));
        VEC step = NAME(max)(new - old, old - new), q = NAME(exp_low)(new);
        moved |= (MASK)(step > ROOT_EPSILON * ((REAL)1 - new)) & (MASK)(wanted > (REAL)-1e29);
        total = NAME(wide_add)(total, NAME(widen)(q));
        bend = NAME(wide_add)(bend, NAME(widen)(q / slope));
        NAME(store)(x + i, new);
    }
    return (struct NAME(inverse_sums)){NAME(wide_sum)(total), NAME(wide_sum)(bend), NAME(any)(moved)};
}

/* log of the sum of exp(below), however far below all are. */
INLINE double NAME(log_sum)(const REAL *below, ptrdiff_t padded) {
    VEC most = NAME(splat)((REAL)-INFINITY);
    for (ptrdiff_t i = 0; i < padded; i += LANES) most = NAME(max)(most, NAME(load)(below + i));
    REAL second = NAME(largest)(most);
    NAME(wide) sum = NAME(widen)(NAME(splat)(0));
    for (ptrdiff_t i = 0; i < padded; i += LANES)
        sum = NAME(wide_add)(sum, NAME(widen)(NAME(exp_low)(NAME(load)(below + i) - second)));
    return (double)second + log(NAME(wide_sum)(sum));
}

/* Solve for a row: `below` holds z - z_m, -inf for the top class, masked ones and padding; another class there
 * must be. `x` becomes log q of the others. Return whether Newton's method ended, and t. */
INLINE int NAME(solve_row)(REAL *x, const REAL *below, ptrdiff_t padded, double most, double gamma, double *odds) {
    double slope, rest = NAME(log_sum)(below, padded), t = (rest - log1p(gamma)) / (1 + gamma);
    t = t < most ? t : most;
    double log_h = top_inverse(t, gamma, &slope);
    for (ptrdiff_t i = 0; i < padded; i += LANES) {
        VEC start = NAME(min)(NAME(load)(below + i) + (REAL)log_h, NAME(splat)((REAL)LOG_HALF));
        NAME(store)(x + i, NAME(max)(start, NAME(splat)((REAL)-1e30)));
    }
    for (int steps = 0; steps < INVERSE_STEPS; steps++) {
        struct NAME(inverse_sums) s = NAME(inverse_step)(x, below, padded, log_h, gamma);
        double log_u = (t < 0 ? t : 0) - log1p(exp(-fabs(t)));
        /* where all q underflow, log h(q) is log q */
        double excess = (s.total > 0 ? log(s.total) : rest + log_h) - log_u;
        double step = excess / ((s.total > 0 ? s.bend / s.total : 1) * slope + 1 / (1 + exp(t)));
        if (!(step - step == 0)) return 0;
        t = t + step < most ? t + step : most;
        log_h = top_inverse(t, gamma, &slope);
        if (s.moved || fabs(step) > ROOT_EPSILON * (1 + fabs(t))) continue;
        NAME(inverse_step)(x, below, padded, log_h, gamma);
        *odds = t;
        return 1;
    }
    return 0;
}

/* Write log q for rows of logits; INVALID where a row is left to torch. */
static int NAME(inverse_rows)(const struct inversion *l) {
    ptrdiff_t k = l->n_classes, padded = (k + LANES - 1) / LANES * LANES;
    REAL *below = aligned_alloc(64, ((size_t)(2 * padded) * sizeof(REAL) + 63) / 64 * 64), *x = below + padded;
    double most = log((double)(k > 2 ? k - 1 : 1)), odds;
    if (!below) return NO_MEMORY;
    for (ptrdiff_t j = k; j < padded; j++) below[j] = (REAL)-INFINITY;
    for (ptrdiff_t r = 0; r < l->n; r++) {
        const REAL *z = (const REAL *)l->rows + r * k;
        REAL *to = (REAL *)l->out + r * k;
        ptrdiff_t top = 0, others = 0;
        for (ptrdiff_t j = 1; j < k; j++) top = z[j] > z[top] ? j : top;
        int fine = z[top] - z[top] == 0;
        for (ptrdiff_t j = 0; j < k; j++) {
            below[j] = j == top ? (REAL)-INFINITY : z[j] - z[top];
            fine &= below[j] <= 0;
            others += below[j] > (REAL)-INFINITY;
        }
        odds = -INFINITY;
        if (!fine || (others && !NAME(solve_row)(x, below, padded, most, l->gamma, &odds))) {
            free(below);
            return INVALID;
        }
        for (ptrdiff_t j = 0; j < k; j++) to[j] = below[j] > (REAL)-INFINITY ? x[j] : (REAL)-INFINITY;
        to[top] = (REAL)(-(odds > 0 ? odds : 0) - log1p(exp(-fabs(odds))));
    }
    free(below);
    return DONE;
}

/* Write the gradient in the logits for rows of log q and upstream gradients in log q. With own_j = upstream / slope
 * and share_j = q_j / (slope (1 - q_m)), it is own_j - share_j mass, and sums to 0. */
static int NAME(inverse_pull)(const struct inversion *l) {
    ptrdiff_t k = l->n_classes, padded = (k + LANES - 1) / LANES * LANES;
    REAL *own = aligned_alloc(64, ((size_t)(2 * padded) * sizeof(REAL) + 63) / 64 * 64), *share = own + padded;
    if (!own) return NO_MEMORY;
    for (ptrdiff_t r = 0; r < l->n; r++) {
        const REAL *log_q = (const REAL *)l->rows + r * k, *by = (const REAL *)l->upstream + r * k;
        REAL *to = (REAL *)l->out + r * k;
        ptrdiff_t top = 0;
        for (ptrdiff_t j = 1; j < k; j++) top = log_q[j] > log_q[top] ? j : top;
        for (ptrdiff_t j = 0; j < padded; j++) {
            share[j] = j == top || j >= k ? (REAL)-INFINITY : log_q[j];
            own[j] = j == top || j >= k ? 0 : by[j];
        }
        double rest = NAME(log_sum)(share, padded), lift;
        REAL scale = (REAL)rest; /* share of the largest is never 0 */
        NAME(wide) own_sum = NAME(widen)(NAME(splat)(0)), share_sum = own_sum;
        for (ptrdiff_t i = 0; i < padded; i += LANES) {
            VEC slope, x = NAME(load)(share + i);
            NAME(other_inverse)(x, (REAL)l->gamma, &slope);
            VEC a = NAME(load)(own + i) / slope, b = NAME(exp_low)(NAME(min)(x - scale, NAME(splat)(0))) / slope;
            NAME(store)(own + i, a);
            NAME(store)(share + i, b);
            own_sum = NAME(wide_add)(own_sum, NAME(widen)(a));
            share_sum = NAME(wide_add)(share_sum, NAME(widen)(b));
        }
        double t = rest - (double)log_q[top], u = 1 / (1 + exp(-t)), q = 1 / (1 + exp(t));
        if (rest == -INFINITY) t = -1e30, u = 0, q = 1;
        top_inverse(t, l->gamma, &lift);
        double mass = (lift * NAME(wide_sum)(own_sum) + (double)by[top] * u) / (lift * NAME(wide_sum)(share_sum) + q);
        double total = 0;
        for (ptrdiff_t j = 0; j < k; j++) {
            to[j] = own[j] - share[j] * (REAL)mass;
            total += j == top ? 0 : to[j];
        }
        to[top] = (REAL)-total; /* a constant added to the logits changes nothing */
    }
    free(own);
    return DONE;
}
