/* The sums of a fit: loss, gradient, curvature in (log T, gamma); a template, see simd.h.
 *
 * Each row is split into its top class, which leaves the row (-inf), and the rest, which becomes
 * u = (z - second largest)/T <= 0, at least LOWEST, and e = exp(u). */

#define LOWEST ((REAL)-1000) /* exp of it is 0; keeps 0 × -inf out of the sums */
#define ALONE ((REAL)-1e30)  /* stands for the second largest logit where all but one are masked */
#define WIDEN 16             /* vectors of floats summed before the sum becomes double */

/* Sums over the rest of e, e u and e u². */
typedef struct {
    VEC size, mean, square;
} NAME(moments);

INLINE VEC NAME(add_moments)(VEC u, NAME(moments) * sums) {
    VEC e = NAME(exp_low)(u), eu = e * u;
    sums->size += e;
    sums->mean += eu;
    sums->square += eu * u;
    return e;
}

/* Sums over the rest of its h, and of h times the derivatives of log h. */
typedef struct {
    VEC total, t, g, tt, tg, gg;
} NAME(tail);

/* What add_tail needs of a row. */
typedef struct {
    VEC scale, offset, centre, variance; /* q = e scale, log q = u + offset */
} NAME(row);

/* Add `count` vectors, `step` apart. In short loops, since a processor looks ahead only some dozens of
 * operations: in one long loop each would wait for the one before. */
INLINE void NAME(add_tail)(const REAL *u, const REAL *e, ptrdiff_t step, ptrdiff_t count, NAME(row) row, REAL gamma,
                           NAME(tail) * sums) {
    VEC logs[WIDEN], weights[WIDEN], inverses[WIDEN], ones[WIDEN];
    for (ptrdiff_t i = 0; i < count; i++) {
        /* 1/(2 - q), 1/v and 1/w from one division, the slowest operation here */
        VEC q = NAME(load)(e + i * step) * row.scale, v = (REAL)1 - q, two = (REAL)2 - q;
        VEC w = v - gamma * q * (NAME(load)(u + i * step) + row.offset), both = v * w;
        VEC all = (REAL)1 / (two * both), rest = two * all;
        logs[i] = both * all;
        inverses[i] = rest * v;
        ones[i] = rest * w;
    }
    for (ptrdiff_t i = 0; i < count; i++)
        logs[i] = NAME(log_half_over)(NAME(load)(e + i * step) * row.scale, logs[i]);
    for (ptrdiff_t i = 0; i < count; i++)
        weights[i] = NAME(load)(e + i * step) * inverses[i] * NAME(exp)(((REAL)1 - gamma) * logs[i]);
    for (ptrdiff_t i = 0; i < count; i++) {
        VEC below = NAME(load)(u + i * step), q = NAME(load)(e + i * step) * row.scale, shift = row.centre - below;
        VEC weight = weights[i], odds = q * ones[i], qi = q * inverses[i], b = qi * (below + row.offset);
        VEC a = ((REAL)1 + gamma) * qi + gamma * b, slope = (gamma - (REAL)1) * odds + a + (REAL)1;
        VEC bend = (gamma - (REAL)1) * odds * ones[i] + gamma * qi + a * a + a, mixed = a * b + odds + qi + b;
        VEC t = slope * shift, g = b - logs[i], wt = weight * t, wg = weight * g;
        sums->total += weight;
        sums->t += wt;
        sums->g += wg;
        sums->tt += wt * t + weight * (bend * shift * shift - slope * (shift + row.variance));
        sums->tg += wt * g + weight * mixed * shift;
        sums->gg += wg * g + weight * b * b;
    }
}

INLINE void NAME(store_wide)(double *to, VEC v) {
    NAME(wide) wide = NAME(widen)(v);
    for (int part = 0; part < NAME(PARTS); part++) store_d(to + part * LANES_d, wide.part[part]);
}

INLINE VEC NAME(narrowed)(const double *from) {
#if REAL_IS_DOUBLE
    return NAME(load)(from);
#else
    VEC v;
    for (int k = 0; k < LANES; k++) v[k] = (REAL)from[k];
    return v;
#endif
}

/* Lanes are rows: x holds class j of row r at j * ROWS + r, and becomes u; e likewise. */
INLINE void NAME(split_columns)(struct tile *tile, REAL *x, REAL *e, ptrdiff_t k, const ptrdiff_t *codes, REAL scale,
                                int keep) {
    REAL own[ROWS];
    for (ptrdiff_t r = 0; r < ROWS; r++) own[r] = x[codes[r] * ROWS + r];
    for (ptrdiff_t r = 0; r < ROWS; r += LANES) {
        VEC first = NAME(load)(x + r), second = NAME(splat)((REAL)-INFINITY), label = NAME(load)(own + r);
        for (ptrdiff_t j = 1; j < k; j++) {
            VEC z = NAME(load)(x + j * ROWS + r);
            second = NAME(max)(second, NAME(min)(first, z));
            first = NAME(max)(first, z);
        }
        second = NAME(select)((MASK)(second == (REAL)-INFINITY), NAME(splat)(ALONE), second);
        NAME(moments) sums = {0};
        MASK left = ~(MASK){0}; /* the top class has not been met: of equals the first is taken */
        for (ptrdiff_t j = 0; j < k; j++) {
            VEC z = NAME(load)(x + j * ROWS + r);
            MASK top = (MASK)(z == first) & left;
            left &= ~top;
            VEC u = NAME(select)(top, NAME(splat)(LOWEST), NAME(max)(NAME(splat)(LOWEST), (z - second) * scale));
            VEC size = NAME(add_moments)(u, &sums);
            if (!keep) continue;
            NAME(store)(x + j * ROWS + r, u);
            NAME(store)(e + j * ROWS + r, size);
        }
        MASK hit = (MASK)(label == first);
        NAME(wide) gap = NAME(widen)(first), below = NAME(widen)(second), of_label = NAME(widen)(label);
        for (int part = 0; part < NAME(PARTS); part++) {
            store_d(tile->gap + r + part * LANES_d, gap.part[part] - below.part[part]);
            store_d(tile->label + r + part * LANES_d, of_label.part[part] - below.part[part]);
        }
        NAME(store_wide)(tile->hit + r, NAME(only)(hit, NAME(splat)(1)));
        NAME(store_wide)(tile->size + r, sums.size);
        NAME(store_wide)(tile->mean + r, sums.mean);
        NAME(store_wide)(tile->square + r, sums.square);
    }
}

INLINE void NAME(tail_columns)(struct tile *tile, const REAL *u, const REAL *e, ptrdiff_t k, REAL gamma) {
    for (ptrdiff_t r = 0; r < ROWS; r += LANES) {
        NAME(row) row = {NAME(narrowed)(tile->scale + r), NAME(narrowed)(tile->offset + r),
                         NAME(narrowed)(tile->centre + r), NAME(narrowed)(tile->variance + r)};
        NAME(tail) sums = {0};
        for (ptrdiff_t j = 0; j < k; j += WIDEN)
            NAME(add_tail)(u + j * ROWS + r, e + j * ROWS + r, ROWS, k - j < WIDEN ? k - j : WIDEN, row, gamma, &sums);
        NAME(store_wide)(tile->total + r, sums.total);
        NAME(store_wide)(tile->t + r, sums.t);
        NAME(store_wide)(tile->g + r, sums.g);
        NAME(store_wide)(tile->tt + r, sums.tt);
        NAME(store_wide)(tile->tg + r, sums.tg);
        NAME(store_wide)(tile->gg + r, sums.gg);
    }
}

/* Lanes are classes: x is row r, padded with -inf to `length`. */
INLINE void NAME(split_row)(struct tile *tile, ptrdiff_t r, REAL *x, REAL *e, ptrdiff_t length, ptrdiff_t code, REAL scale,
                            int keep) {
    VEC firsts = NAME(load)(x), seconds = NAME(splat)((REAL)-INFINITY);
    for (ptrdiff_t j = LANES; j < length; j += LANES) {
        VEC z = NAME(load)(x + j);
        seconds = NAME(max)(seconds, NAME(min)(firsts, z));
        firsts = NAME(max)(firsts, z);
    }
    REAL first = firsts[0], second = seconds[0], label = x[code];
    for (int lane = 1; lane < LANES; lane++) {
        REAL least = firsts[lane] < first ? firsts[lane] : first;
        first = firsts[lane] > first ? firsts[lane] : first;
        second = least > second ? least : second;
        second = seconds[lane] > second ? seconds[lane] : second;
    }
    if (second == (REAL)-INFINITY) second = ALONE;
    for (ptrdiff_t j = 0; j < length; j += LANES) {
        if (!NAME(any)((MASK)(NAME(load)(x + j) == first))) continue;
        while (x[j] != first) j++;
        x[j] = (REAL)-INFINITY; /* of equals the first is taken */
        break;
    }
    NAME(wide) size = {0}, mean = {0}, square = {0};
    for (ptrdiff_t start = 0; start < length; start += WIDEN * LANES) {
        ptrdiff_t end = start + WIDEN * LANES < length ? start + WIDEN * LANES : length;
        NAME(moments) sums = {0};
        for (ptrdiff_t j = start; j < end; j += LANES) {
            VEC u = NAME(max)(NAME(splat)(LOWEST), (NAME(load)(x + j) - second) * scale);
            VEC part = NAME(add_moments)(u, &sums);
            if (!keep) continue;
            NAME(store)(x + j, u);
            NAME(store)(e + j, part);
        }
        size = NAME(wide_add)(size, NAME(widen)(sums.size));
        mean = NAME(wide_add)(mean, NAME(widen)(sums.mean));
        square = NAME(wide_add)(square, NAME(widen)(sums.square));
    }
    tile->gap[r] = (double)first - (double)second;
    tile->label[r] = (double)label - (double)second;
    tile->hit[r] = label == first ? 1 : 0;
    tile->size[r] = NAME(wide_sum)(size);
    tile->mean[r] = NAME(wide_sum)(mean);
    tile->square[r] = NAME(wide_sum)(square);
}

INLINE void NAME(tail_row)(struct tile *tile, ptrdiff_t r, const REAL *u, const REAL *e, ptrdiff_t length, REAL gamma) {
    NAME(row) row = {NAME(splat)((REAL)tile->scale[r]), NAME(splat)((REAL)tile->offset[r]),
                     NAME(splat)((REAL)tile->centre[r]), NAME(splat)((REAL)tile->variance[r])};
    NAME(wide) total = {0}, t = {0}, g = {0}, tt = {0}, tg = {0}, gg = {0};
    for (ptrdiff_t start = 0; start < length; start += WIDEN * LANES) {
        ptrdiff_t left = (length - start) / LANES;
        NAME(tail) sums = {0};
        NAME(add_tail)(u + start, e + start, LANES, left < WIDEN ? left : WIDEN, row, gamma, &sums);
        total = NAME(wide_add)(total, NAME(widen)(sums.total));
        t = NAME(wide_add)(t, NAME(widen)(sums.t));
        g = NAME(wide_add)(g, NAME(widen)(sums.g));
        tt = NAME(wide_add)(tt, NAME(widen)(sums.tt));
        tg = NAME(wide_add)(tg, NAME(widen)(sums.tg));
        gg = NAME(wide_add)(gg, NAME(widen)(sums.gg));
    }
    tile->total[r] = NAME(wide_sum)(total);
    tile->t[r] = NAME(wide_sum)(t);
    tile->g[r] = NAME(wide_sum)(g);
    tile->tt[r] = NAME(wide_sum)(tt);
    tile->tg[r] = NAME(wide_sum)(tg);
    tile->gg[r] = NAME(wide_sum)(gg);
}

/* Either layout. `keep` leaves u and e in x and e, for sum_tail. */
INLINE void NAME(split)(struct tile *tile, REAL *x, REAL *e, ptrdiff_t k, ptrdiff_t length, ptrdiff_t count,
                        const ptrdiff_t *codes, REAL scale, int keep) {
    if (k < NARROW)
        NAME(split_columns)(tile, x, e, k, codes, scale, keep);
    else
        for (ptrdiff_t r = 0; r < count; r++)
            NAME(split_row)(tile, r, x + r * length, e + r * length, length, codes[r], scale, keep);
    if (k >= NARROW && count % LANES_d)
        for (ptrdiff_t r = count; r % LANES_d; r++) blank_row(tile, r);
}

INLINE void NAME(sum_tail)(struct tile *tile, const REAL *u, const REAL *e, ptrdiff_t k, ptrdiff_t length,
                           ptrdiff_t count, REAL gamma) {
    if (k < NARROW)
        NAME(tail_columns)(tile, u, e, k, gamma);
    else
        for (ptrdiff_t r = 0; r < count; r++) NAME(tail_row)(tile, r, u + r * length, e + r * length, length, gamma);
}

/* Sum over all rows into sums[FIT_SUMS]; gamma of NaN is plain temperature scaling. -1 for a label that is no
 * column's number, -2 without memory. */
static int NAME(fit_sums)(const struct scores *s, const int64_t *codes, const double *weight, double log_temperature,
                          double gamma, double *sums) {
    int narrow = s->n_classes < NARROW, with_tail = gamma == gamma, status = 0;
    ptrdiff_t step = narrow ? ROWS : NAME(tile_rows)(s), length = NAME(padded)(s), k = s->n_classes;
    double scale = exp(-log_temperature);
    REAL *x = NAME(new_block)(s), *e = NAME(new_block)(s);
    struct tile tile = {0};
    vec_d total[FIT_SUMS] = {0}, part[FIT_SUMS] = {0};
    if (!x || !e) status = -2;
    for (ptrdiff_t first = 0; first < s->n && !status; first += step) {
        ptrdiff_t count = s->n - first < step ? s->n - first : step, own[ROWS];
        for (ptrdiff_t r = 0; r < ROWS; r++) {
            ptrdiff_t at = first + (r < count ? r : count - 1);
            if (codes[at] < 0 || codes[at] >= k) status = -1;
            own[r] = status ? 0 : codes[at];
            tile.weight[r] = r >= count ? 0 : weight ? weight[at] : 1;
        }
        if (status) break;
        if (narrow)
            NAME(load_logit_columns)(s, first, count, x);
        else
            NAME(load_logit_rows)(s, first, count, x);
        if (with_tail) {
            NAME(split)(&tile, x, e, k, length, count, own, (REAL)scale, 1);
            softmax_rows(&tile, count, scale, 1);
            NAME(sum_tail)(&tile, x, e, k, length, count, (REAL)gamma);
            nll_rows(&tile, count, gamma, part);
        } else {
            NAME(split)(&tile, x, e, k, length, count, own, (REAL)scale, 0);
            softmax_rows(&tile, count, scale, 0);
            temperature_rows(&tile, count, part);
        }
        if (first / step % 256 == 255 || first + step >= s->n) {
            for (int i = 0; i < FIT_SUMS; i++) total[i] += part[i], part[i] = splat_d(0);
        }
    }
    for (int i = 0; i < FIT_SUMS; i++) {
        sums[i] = 0;
        for (int lane = 0; lane < LANES_d; lane++) sums[i] += total[i][lane];
    }
    free(x);
    free(e);
    return status;
}

#undef LOWEST
#undef ALONE
#undef WIDEN
