/* log of the focal calibration map of softmax(z / T), or of softmax(z / T) alone for gamma = 0; a template,
 * see simd.h. maps.py says what it computes.
 *
 * As in reference.py a row is the top class against the rest. With u_j = (z_j - second largest) / T the rest's
 * sum never underflows, so that the odds against the top class are exact for gaps of any size. Each row then
 * is `base` + x_j for the rest, with x_j = u_j or, mapped, u_j + log(h/q)_j - log(h/q) of the second class. */

#if REAL_IS_DOUBLE
enum { MAP_CHUNK = 16 };               /* vectors at once */
#define LOG_HALF -0.69314718055994531 /* no class beside the top one has more than half */

/* What a block of rows needs, lanes are rows. */
struct map_block {
    double gap[ROWS];    /* largest minus second largest logit */
    double size[ROWS];   /* sum over the rest of exp(u) */
    double offset[ROWS]; /* log q of the rest: u + offset */
    double second[ROWS]; /* log(h/q) of the second class */
    double ratio[ROWS];  /* log of h of the second class over h of the top class */
    double total[ROWS];  /* sum over the rest of exp(x), mapped */
    double base[ROWS];   /* result of the rest: x + base, or exp(x) * base */
    double top[ROWS];    /* result of the top class */
};

/* log(h/q) of a class that is not on top, of log-probability log_q. */
INLINE vec_d log_factor(vec_d log_q, double gamma) {
    vec_d q = exp_low_d(log_q);
    return (1 - gamma) * log_half_d(q) - log_d(1.0 - q - gamma * q * log_q);
}

/* What is left of a row whose log-odds against the top class are known. */
INLINE void finish_map(struct map_block *b, int i, vec_d log_odds, vec_d ratio, int exponentiate) {
    vec_d odds = exp_d(log_odds), top = -log1p_d(odds), base = ratio + top;
    store_d(b->top + i, exponentiate ? 1.0 / (1.0 + odds) : top);
    store_d(b->base + i, exponentiate ? exp_d(base) : base);
}

/* From the sums of exp(u): the results, or for gamma other than 0 what the map needs. */
INLINE void start_map(struct map_block *b, ptrdiff_t count, const struct mapping *map) {
    for (int i = 0; i < count; i += LANES_d) {
        vec_d gap = load_d(b->gap + i) / map->temperature;
        vec_d log_odds = log_d(max_d(load_d(b->size + i), splat_d(1e-150))) - gap;
        if (map->gamma == 0) {
            finish_map(b, i, log_odds, -gap, map->exponentiate);
            continue;
        }
        vec_d odds = exp_d(log_odds), log_q = -log1p_d(odds), offset = log_q - gap;
        vec_d second = log_factor(min_d(offset, splat_d(LOG_HALF)), map->gamma);
        store_d(b->offset + i, offset);
        store_d(b->second + i, second);
        store_d(b->ratio + i, offset + second - top_log_h(odds, log_odds, log_q, map->gamma));
    }
}

INLINE void end_map(struct map_block *b, ptrdiff_t count, const struct mapping *map) {
    for (int i = 0; i < count && map->gamma != 0; i += LANES_d) {
        vec_d ratio = load_d(b->ratio + i), total = max_d(load_d(b->total + i), splat_d(1e-150));
        finish_map(b, i, log_d(total) + ratio, ratio, map->exponentiate);
    }
}
#endif

/* Turn `count` vectors of u, `step` apart, into x or, to be probabilities, exp(x); return the sum of exp(x).
 * In short loops, because a processor looks ahead only some dozens of operations: in one long loop each
 * would wait for the one before. */
INLINE VEC NAME(map_rest)(REAL *x, ptrdiff_t step, ptrdiff_t count, VEC offset, VEC second,
                          const struct mapping *map) {
    VEC q[MAP_CHUNK], w[MAP_CHUNK], total = NAME(splat)(0);
    REAL gamma = (REAL)map->gamma;
    for (ptrdiff_t i = 0; i < count; i++) {
        VEC log_q = NAME(max)(NAME(load)(x + i * step), NAME(splat)((REAL)-1e30)) + offset; /* 0 log 0 is 0 */
        log_q = NAME(min)(log_q, NAME(splat)((REAL)LOG_HALF));
        q[i] = NAME(exp_low)(log_q);
        w[i] = (REAL)1 - q[i] - gamma * q[i] * log_q;
    }
    for (ptrdiff_t i = 0; i < count; i++) q[i] = ((REAL)1 - gamma) * NAME(log_half)(q[i]);
    for (ptrdiff_t i = 0; i < count; i++) w[i] = NAME(load)(x + i * step) + (q[i] - NAME(log)(w[i]) - second);
    for (ptrdiff_t i = 0; i < count; i++) {
        VEC e = NAME(exp_low)(w[i]);
        total += e;
        NAME(store)(x + i * step, map->exponentiate ? e : w[i]);
    }
    return total;
}

/* The result of the rest; no larger than the top class's, whatever was rounded. */
INLINE VEC NAME(result)(VEC x, VEC base, VEC top, int exponentiate) {
    return NAME(min)(exponentiate ? x * base : x + base, top);
}

/* A double of each row, as a vector of REAL. */
INLINE VEC NAME(gather)(const double *from) {
    VEC v;
    for (int i = 0; i < LANES; i++) v[i] = (REAL)from[i];
    return v;
}

/* Few classes: lanes are rows. `x` holds logits class by class; it becomes u (or exp(u)), with the columns of
 * the top classes in `tops`. */
INLINE void NAME(start_columns)(REAL *x, ptrdiff_t k, const struct mapping *map, struct map_block *b, REAL *tops) {
    REAL scale = (REAL)(1 / map->temperature);
    int want_exp = map->gamma == 0 && map->exponentiate;
    for (int i = 0; i < ROWS; i += LANES) {
        VEC first = NAME(splat)((REAL)-INFINITY), second = first, top = NAME(splat)(0), size = top;
        for (ptrdiff_t j = 0; j < k; j++) {
            VEC z = NAME(load)(x + j * ROWS + i);
            MASK above = (MASK)(z > first);
            second = NAME(max)(second, NAME(select)(above, first, z));
            top = NAME(select)(above, NAME(splat)((REAL)j), top);
            first = NAME(select)(above, z, first);
        }
        second = NAME(max)(second, NAME(min)(first, NAME(splat)(0)) - (REAL)1e30); /* a row of one class */
        for (ptrdiff_t j = 0; j < k; j++) {
            VEC z = NAME(load)(x + j * ROWS + i);
            z = NAME(select)((MASK)(top == (REAL)j), NAME(splat)((REAL)-INFINITY), z);
            VEC u = (z - second) * scale, e = NAME(exp_low)(u);
            size += e;
            NAME(store)(x + j * ROWS + i, want_exp ? e : u);
        }
        NAME(store)(tops + i, top);
        for (int r = 0; r < LANES; r++) {
            b->gap[i + r] = (double)first[r] - (double)second[r];
            b->size[i + r] = size[r];
        }
    }
}

/* `x` holds logits class by class and is left holding the results. */
INLINE void NAME(map_columns)(REAL *x, ptrdiff_t k, const struct mapping *map, struct map_block *b) {
    REAL tops[ROWS];
    NAME(start_columns)(x, k, map, b, tops);
    start_map(b, ROWS, map);
    for (int i = 0; i < ROWS && map->gamma != 0; i += LANES) {
        VEC offset = NAME(gather)(b->offset + i), second = NAME(gather)(b->second + i);
        VEC total = NAME(splat)(0);
        for (ptrdiff_t j = 0; j < k; j += MAP_CHUNK) {
            ptrdiff_t count = k - j < MAP_CHUNK ? k - j : MAP_CHUNK;
            total += NAME(map_rest)(x + j * ROWS + i, ROWS, count, offset, second, map);
        }
        for (int r = 0; r < LANES; r++) b->total[i + r] = total[r];
    }
    end_map(b, ROWS, map);
    for (int i = 0; i < ROWS; i += LANES) {
        VEC base = NAME(gather)(b->base + i), best = NAME(gather)(b->top + i), top = NAME(load)(tops + i);
        for (ptrdiff_t j = 0; j < k; j++) {
            VEC rest = NAME(result)(NAME(load)(x + j * ROWS + i), base, best, map->exponentiate);
            NAME(store)(x + j * ROWS + i, NAME(select)((MASK)(top == (REAL)j), best, rest));
        }
    }
}

/* Many classes: lanes are classes. Turn a padded row of n logits, its top class at `top`, into u (or exp(u))
 * and put what it sums to into place r of the block. */
INLINE void NAME(start_row)(REAL *x, ptrdiff_t n, ptrdiff_t top, const struct mapping *map,
                            struct map_block *b, ptrdiff_t r) {
    REAL scale = (REAL)(1 / map->temperature), first = x[top];
    VEC most = NAME(splat)((REAL)-INFINITY);
    x[top] = (REAL)-INFINITY;
    for (ptrdiff_t i = 0; i < n; i += LANES) most = NAME(max)(most, NAME(load)(x + i));
    REAL second = NAME(largest)(most), lowest = (first < 0 ? first : 0) - (REAL)1e30;
    if (second < lowest) second = lowest; /* a row of one class */
    NAME(wide) size = NAME(widen)(NAME(splat)(0));
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        VEC u = (NAME(load)(x + i) - second) * scale, e = NAME(exp_low)(u);
        size = NAME(wide_add)(size, NAME(widen)(e));
        NAME(store)(x + i, map->gamma == 0 && map->exponentiate ? e : u);
    }
    b->gap[r] = (double)first - (double)second;
    b->size[r] = NAME(wide_sum)(size);
}

INLINE void NAME(map_row)(REAL *x, ptrdiff_t n, const struct mapping *map, struct map_block *b, ptrdiff_t r) {
    VEC offset = NAME(splat)((REAL)b->offset[r]), second = NAME(splat)((REAL)b->second[r]);
    NAME(wide) total = NAME(widen)(NAME(splat)(0));
    for (ptrdiff_t i = 0; i < n; i += MAP_CHUNK * LANES) {
        ptrdiff_t count = (n - i) / LANES < MAP_CHUNK ? (n - i) / LANES : MAP_CHUNK;
        total = NAME(wide_add)(total, NAME(widen)(NAME(map_rest)(x + i, LANES, count, offset, second, map)));
    }
    b->total[r] = NAME(wide_sum)(total);
}

/* Map `count` rows, at most a tile, from row `first` on. */
INLINE int NAME(map_tile)(REAL *x, const struct scores *s, const struct mapping *map, ptrdiff_t first,
                          ptrdiff_t count, struct map_block *b) {
    ptrdiff_t n = NAME(padded)(s), k = s->n_classes, top[TILE];
    int fine = 1;
    NAME(load_rows)(s, first, count, x);
    for (ptrdiff_t r = 0; r < count; r++) {
        REAL *row = x + r * n, highest = NAME(highest_of)(row, n, s->is_probs, map->tolerance, &fine);
        if (!fine) return INVALID;
        top[r] = NAME(find)(row, n, highest);
        if (s->is_probs) {
            NAME(probs_to_logits)(row, n);
            for (ptrdiff_t j = k; j < n; j++) row[j] = (REAL)-INFINITY;
        }
        NAME(start_row)(row, n, top[r], map, b, r);
    }
    start_map(b, count, map);
    for (ptrdiff_t r = 0; r < count && map->gamma != 0; r++) NAME(map_row)(x + r * n, n, map, b, r);
    end_map(b, count, map);
    for (ptrdiff_t r = 0; r < count; r++) {
        VEC base = NAME(splat)((REAL)b->base[r]), best = NAME(splat)((REAL)b->top[r]);
        for (ptrdiff_t i = 0; i < n; i += LANES)
            NAME(store)(x + r * n + i, NAME(result)(NAME(load)(x + r * n + i), base, best, map->exponentiate));
        x[r * n + top[r]] = (REAL)b->top[r];
        memcpy((REAL *)map->out + (first + r) * k, x + r * n, (size_t)k * sizeof(REAL));
    }
    return DONE;
}

/* Write a block of columns as rows; only a single column of float32 is worked on in double. */
INLINE void NAME(write_columns)(const REAL *x, const struct scores *s, const struct mapping *map,
                                ptrdiff_t first, ptrdiff_t count) {
    ptrdiff_t k = s->n_classes;
    for (ptrdiff_t j = 0; j < k; j++) {
        if (s->is_double == REAL_IS_DOUBLE)
            for (ptrdiff_t r = 0; r < count; r++) ((REAL *)map->out)[(first + r) * k + j] = x[j * ROWS + r];
        else
            for (ptrdiff_t r = 0; r < count; r++)
                ((float *)map->out)[(first + r) * k + j] = (float)x[j * ROWS + r];
    }
}

/* Map all rows; see struct mapping. */
static int NAME(map_rows)(const struct scores *s, const struct mapping *map) {
    int narrow = s->n_classes < NARROW, status = DONE;
    REAL *x = NAME(new_block)(s);
    struct map_block b;
    memset(&b, 0, sizeof b);
    if (!x) return NO_MEMORY;
    ptrdiff_t step = narrow ? ROWS : NAME(tile_rows)(s);
    for (ptrdiff_t first = 0; status == DONE && first < s->n; first += step) {
        ptrdiff_t count = s->n - first < step ? s->n - first : step;
        if (!narrow) {
            status = NAME(map_tile)(x, s, map, first, count, &b);
            continue;
        }
        if (s->is_single) status = NAME(check_single)(s, first, count, map->tolerance);
        NAME(load_columns)(s, first, count, x);
        if (status == DONE) status = NAME(check_columns)(x, s->n_classes, s->is_probs, map->tolerance);
        if (status != DONE) break;
        if (s->is_probs) NAME(probs_to_logits)(x, s->n_classes * ROWS);
        NAME(map_columns)(x, s->n_classes, map, &b);
        NAME(write_columns)(x, s, map, first, count);
    }
    free(x);
    return status;
}
