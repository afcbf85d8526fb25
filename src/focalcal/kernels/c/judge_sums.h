/* From the numbers of judge.h to the sums that metrics are made of; a template, see simd.h. */

#ifndef FOCALCAL_JUDGE_SUMS
#define FOCALCAL_JUDGE_SUMS
/* The bin (edges[b], edges[b + 1]] of a number; the first and the last bin take what lies beyond them. */
INLINE ptrdiff_t find_bin(double p, const double *edges, ptrdiff_t bins, double margin) {
    double scaled = p * (double)bins;
    ptrdiff_t b = (ptrdiff_t)scaled;
    double part = scaled - (double)b;
    if (part > margin && part < 1 - margin) return b; /* well inside, for edges of equal width */
    b = b < bins ? b : bins - 1;
    while (b > 0 && p <= edges[b]) b--;
    while (b < bins - 1 && p > edges[b + 1]) b++;
    return b;
}

/* How near to a multiple of 1/bins, in parts of a bin, a number may be on the wrong side of an edge. */
INLINE double edge_margin(const double *edges, ptrdiff_t bins) {
    double margin = 0;
    for (ptrdiff_t b = 0; b <= bins; b++) margin = fmax(margin, fabs(edges[b] * (double)bins - (double)b));
    return margin + 1e-12;
}

/* The same for the numbers of a whole block. */
INLINE void find_bins(const double *p, const double *edges, ptrdiff_t bins, double margin, int32_t *to) {
    double near[ROWS];
    for (int r = 0; r < ROWS; r++) {
        double scaled = p[r] * (double)bins;
        to[r] = (int32_t)scaled;
        double part = scaled - (double)to[r];
        near[r] = part > margin && part < 1 - margin ? 0 : 1;
    }
    for (int i = 0; i < ROWS; i += LANES_d) {
        uint64_t bits = mask_bits_d((mask_d)(load_d(near + i) > 0));
        for (; bits; bits &= bits - 1) {
            int r = i + __builtin_ctzll(bits);
            to[r] = (int32_t)find_bin(p[r], edges, bins, margin);
        }
    }
}

/* Add a row's number to a bin; its label is added apart. */
INLINE void add_to_bin(const struct bin_sums *to, ptrdiff_t cell, double confidence, double w) {
    to->count[cell] += 1;
    to->confidence[cell] += w * confidence;
    if (to->weight) {
        to->weight[cell] += w;
        to->weight2[cell] += w * w;
    }
}

/* Sums of a score x with weights w; a row of weight 0 adds nothing, whatever its score. */
INLINE void add_scores(vec_d sums[3], vec_d x, vec_d w) {
    vec_d wx = only_d((mask_d)(w > 0), w * x);
    sums[0] += wx;
    sums[1] += w * wx;
    sums[2] += wx * wx;
}
#endif

/* A row's losses from its numbers, and their sums. Leaves the confidences of the block in `confidence`. */
INLINE void NAME(sum_losses)(struct NAME(judged) *b, int is_probs, double *confidence, double *totals) {
    vec_d sums[TOTALS] = {0}, one = splat_d(1);
    for (int i = 0; i < ROWS; i += LANES_d) {
        vec_d others = NAME(load_double)(b->others + i), squares = NAME(load_double)(b->squares + i);
        vec_d own = NAME(load_double)(b->own + i), highest = NAME(load_double)(b->highest + i);
        vec_d is_hit = load_d(b->hit + i), w = load_d(b->weight + i);
        mask_d hit = (mask_d)(is_hit > 0), counts = (mask_d)(w > 0);
        vec_d top = is_probs ? highest : one; /* the top class's number */
        /* the squares of all but the label; the top class's is the largest, so that nothing cancels */
        vec_d rest = select_d(hit, squares, top * top + (squares - own * own));
        vec_d nll, missing, p;
        if (is_probs) {
            p = highest;
            missing = one - own;
            nll = -log_d(max_d(own, splat_d(FLOOR)));
            sums[FLOORED] += only_d((mask_d)(own < (REAL)FLOOR) & counts, one);
        } else {
            p = one / (one + others);
            missing = select_d(hit, others * p, one - own * p);
            nll = log1p_d(others) - (NAME(load_double)(b->label + i) - highest);
            rest *= p * p;
        }
        store_d(confidence + i, p);
        sums[SUM_WEIGHT] += w;
        sums[SUM_WEIGHT2] += w * w;
        add_scores(sums + SUM_NLL, nll, w);
        add_scores(sums + SUM_BRIER, rest + missing * missing, w);
        add_scores(sums + SUM_HIT, is_hit, w);
        sums[IMPOSSIBLE] += only_d((mask_d)(nll == INFINITY) & counts, one);
    }
    for (int k = 0; k < TOTALS; k++) totals[k] += sum_d(sums[k]);
}

/* Keep the confidence of each row, negative where the top class is not the label. */
INLINE void NAME(keep_signed)(const double *p, const double *hit, const struct scores *s, void *to,
                              ptrdiff_t first, ptrdiff_t count) {
    double mark[ROWS];
    for (int r = 0; r < ROWS; r++) mark[r] = p[r] * (2 * hit[r] - 1);
    if (s->is_double) memcpy((double *)to + first, mark, (size_t)count * sizeof(double));
    else
        for (ptrdiff_t r = 0; r < count; r++) ((float *)to)[first + r] = (float)mark[r];
}

/* Add the block's rows to the bins of the top class and, as labels, to those of their own class. */
INLINE void NAME(sum_top)(const struct NAME(judged) *b, const struct scores *s, const struct judging *to,
                          double *p, ptrdiff_t first, ptrdiff_t count) {
    int32_t bin[ROWS];
    for (int r = 0; r < ROWS; r++) p[r] = s->is_double ? p[r] : (float)p[r]; /* the precision of the scores */
    find_bins(p, to->edges, to->bins, to->margin, bin);
    for (ptrdiff_t r = 0; r < count; r++) {
        add_to_bin(&to->top, bin[r], p[r], b->weight[r]);
        to->top.hit[bin[r]] += b->weight[r] * b->hit[r];
    }
    if (to->signed_confidence) NAME(keep_signed)(p, b->hit, s, to->signed_confidence, first, count);
    if (!to->with_classes) return;
    for (int r = 0; r < ROWS; r++) p[r] = b->own[r] * b->inverse[r];
    find_bins(p, to->edges, to->bins, to->margin, bin);
    for (ptrdiff_t r = 0; r < count; r++)
        to->classwise.hit[to->codes[first + r] * to->bins + bin[r]] += b->weight[r];
}

/* Add the classes of set bits, of numbers p, to their bins. `step` is the distance between their classes. */
INLINE void NAME(add_large)(const struct judging *to, uint64_t bits, const REAL *p, const double *w,
                            ptrdiff_t class, ptrdiff_t class_step, ptrdiff_t weight_step) {
    for (; bits; bits &= bits - 1) {
        ptrdiff_t i = __builtin_ctzll(bits);
        ptrdiff_t cell = (class + i * class_step) * to->bins + find_bin(p[i], to->edges, to->bins, to->margin);
        add_to_bin(&to->classwise, cell, p[i], w[i * weight_step]);
    }
}

/* Class-wise sums of a block whose lanes are rows: few numbers lie above the first edge, so that only those
 * are placed one by one. */
INLINE void NAME(sum_columns)(const REAL *x, ptrdiff_t k, const struct NAME(judged) *b,
                              const struct judging *to, ptrdiff_t count, REAL edge) {
    uint64_t present = count < 64 ? ((uint64_t)1 << count) - 1 : ~(uint64_t)0;
    for (ptrdiff_t j = 0; j < k; j++) {
        REAL p[ROWS];
        uint64_t large = 0;
        NAME(wide) rest = NAME(widen)(NAME(splat)(0));
        for (int i = 0; i < ROWS; i += LANES) {
            VEC here = NAME(load)(x + j * ROWS + i) * NAME(load)(b->inverse + i);
            MASK above = (MASK)(here > edge);
            NAME(store)(p + i, here);
            large |= NAME(mask_bits)(above) << i;
            NAME(wide) small = NAME(widen)(NAME(only)(~above, here));
            for (int part = 0; part < NAME(PARTS); part++)
                rest.part[part] += small.part[part] * load_d(b->weight + i + part * LANES_d);
        }
        to->classwise.confidence[j * to->bins] += NAME(wide_sum)(rest);
        NAME(add_large)(to, large & present, p, b->weight, j, 0, 1);
    }
}

/* Place the large numbers of one row and set them to 0, so that what is left belongs to the first bins. */
INLINE void NAME(take_large)(REAL *x, ptrdiff_t n, const struct judging *to, ptrdiff_t top, REAL runner_up,
                             REAL inverse, double w, REAL edge) {
    if (runner_up * inverse <= edge) { /* as a rule: at most the top class */
        REAL p = x[top] * inverse;
        if (p > edge) NAME(add_large)(to, 1, &p, &w, top, 0, 0), x[top] = 0;
        return;
    }
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        REAL p[LANES];
        VEC e = NAME(load)(x + i), here = e * inverse;
        MASK above = (MASK)(here > edge);
        uint64_t large = NAME(mask_bits)(above);
        if (!large) continue;
        NAME(store)(p, here);
        NAME(store)(x + i, NAME(only)(~above, e));
        NAME(add_large)(to, large, p, &w, i, 1, 0);
    }
}

/* Judge the rows of one block of many classes, tile after tile. `rest` holds a sum for each class. */
INLINE int NAME(judge_rows)(REAL *x, const struct scores *s, const struct judging *to, ptrdiff_t first,
                            ptrdiff_t count, struct NAME(judged) *b, double *rest, REAL edge) {
    ptrdiff_t n = NAME(padded)(s), tile = NAME(tile_rows)(s);
    int fine = 1;
    for (ptrdiff_t start = 0; start < count; start += tile) {
        ptrdiff_t rows = count - start < tile ? count - start : tile;
        double scale[TILE];
        NAME(load_rows)(s, first + start, rows, x);
        for (ptrdiff_t i = 0; i < rows; i++) {
            REAL *row = x + i * n, runner_up;
            ptrdiff_t r = start + i;
            b->highest[r] = NAME(highest_of)(row, n, s->is_probs, to->tolerance, &fine);
            if (!fine) return INVALID;
            ptrdiff_t top = NAME(judge_row)(row, n, s->is_probs, to->codes[first + r], r, b, &runner_up);
            if (!rest) continue;
            b->inverse[r] = s->is_probs ? 1 : (REAL)(1 / (1 + (double)b->others[r]));
            NAME(take_large)(row, n, to, top, runner_up, b->inverse[r], b->weight[r], edge);
            scale[i] = b->inverse[r] * b->weight[r];
        }
        for (ptrdiff_t j = 0; rest && j < n; j += LANES) {
            for (ptrdiff_t i = 0; i < rows; i++) {
                NAME(wide) e = NAME(widen)(NAME(load)(x + i * n + j));
                for (int part = 0; part < NAME(PARTS); part++) {
                    double *at = rest + j + part * LANES_d;
                    store_d(at, load_d(at) + e.part[part] * scale[i]);
                }
            }
        }
    }
    return DONE;
}

/* What the first bins hold is what the others do not. */
INLINE void NAME(fill_first_bins)(const struct scores *s, const struct judging *to, const double *rest) {
    const struct bin_sums *c = &to->classwise;
    for (ptrdiff_t j = 0; j < s->n_classes; j++) {
        double count = 0, weight = 0, weight2 = 0;
        ptrdiff_t cell = j * to->bins;
        for (ptrdiff_t b = 1; b < to->bins; b++) {
            count += c->count[cell + b];
            if (c->weight) weight += c->weight[cell + b], weight2 += c->weight2[cell + b];
        }
        c->count[cell] = (double)s->n - count;
        if (rest) c->confidence[cell] += rest[j];
        if (!c->weight || c->count[cell] == 0) continue;
        c->weight[cell] = fmax(to->totals[SUM_WEIGHT] - weight, 0);
        c->weight2[cell] = fmax(to->totals[SUM_WEIGHT2] - weight2, 0);
    }
}

/* Sum what metrics need over all rows; see struct judging. */
static int NAME(judge)(const struct scores *s, struct judging *to) {
    int narrow = s->n_classes < NARROW, status = DONE;
    REAL *x = NAME(new_block)(s), edge = to->bins > 1 ? (REAL)to->edges[1] : (REAL)INFINITY;
    double *rest = NULL, confidence[ROWS];
    struct NAME(judged) b = {0};
    to->margin = edge_margin(to->edges, to->bins);
    if (to->with_classes && !narrow) rest = calloc((size_t)NAME(padded)(s), sizeof(double));
    if (!x || (to->with_classes && !narrow && !rest)) status = NO_MEMORY;
    for (ptrdiff_t first = 0; status == DONE && first < s->n; first += ROWS) {
        ptrdiff_t count = s->n - first < ROWS ? s->n - first : ROWS;
        for (ptrdiff_t r = 0; r < ROWS; r++)
            b.weight[r] = r >= count ? 0 : to->weight ? to->weight[first + r] : 1;
        for (ptrdiff_t r = 0; r < count; r++)
            if ((uint64_t)to->codes[first + r] >= (uint64_t)s->n_classes) status = WRONG_CODE;
        if (status == DONE && s->is_single) status = NAME(check_single)(s, first, count, to->tolerance);
        if (status != DONE) break;
        if (narrow) {
            NAME(load_columns)(s, first, count, x);
            status = NAME(check_columns)(x, s->n_classes, s->is_probs, to->tolerance);
            if (status == DONE)
                NAME(judge_columns)(x, s->n_classes, s->is_probs, to->codes + first, count, &b);
        } else {
            status = NAME(judge_rows)(x, s, to, first, count, &b, rest, edge);
        }
        if (status != DONE) break;
        NAME(sum_losses)(&b, s->is_probs, confidence, to->totals);
        for (int r = 0; r < ROWS; r++) b.inverse[r] = s->is_probs ? 1 : (REAL)confidence[r];
        NAME(sum_top)(&b, s, to, confidence, first, count);
        if (to->with_classes && narrow) NAME(sum_columns)(x, s->n_classes, &b, to, count, edge);
    }
    if (status == DONE && to->with_classes) NAME(fill_first_bins)(s, to, rest);
    free(rest);
    free(x);
    return status;
}
