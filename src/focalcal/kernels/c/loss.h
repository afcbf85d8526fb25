/* Training losses of one label a row, and their gradients in the logits; a template, see simd.h.
 * nn/_curves.py and nn/_odds.py hold the same formulas in torch.
 *
 * With π the distribution over the other classes, given that it is none of the label's, and s the label's
 * log-odds, ds/dz = e_y - π. A loss therefore needs of its row only most = max and size = Σ exp(z - most)
 * over the other classes: forward reads the logits and writes nothing of their size, backward writes
 * π_k times a number of the row. */

#if REAL_IS_DOUBLE
enum { LOSS_TILE = 64 };

/* What belongs to a row, lanes are rows. */
struct loss_tile {
    double most[LOSS_TILE], size[LOSS_TILE];
    double gap[LOSS_TILE];   /* the label's logit less `most` */
    double rival[LOSS_TILE]; /* dual: the largest π below the label's probability, 0 where there is none */
    double loss[LOSS_TILE];
    double own[LOSS_TILE], other[LOSS_TILE]; /* slope in s; slope in log π of the rival */
    ptrdiff_t place[LOSS_TILE];              /* the rival's column */
};

/* γ of rows whose labels have probability q: steps[b] from edge b - 1 on. */
INLINE vec_d gamma_at(vec_d q, const struct training *l) {
    if (!l->edge_count) return splat_d(l->steps ? l->steps[0] : l->gamma);
    vec_d gamma = splat_d(l->steps[0]);
    for (ptrdiff_t b = 0; b < l->edge_count; b++)
        gamma = select_d((mask_d)(q >= splat_d(l->edges[b])), splat_d(l->steps[b + 1]), gamma);
    return gamma;
}

/* The losses of a tile and their slopes: focal, inverse focal (of |γ| where γ < 0 too), or dual. */
INLINE void loss_curves(struct loss_tile *t, ptrdiff_t count, const struct training *l) {
    for (ptrdiff_t i = 0; i < count; i += LANES_d) {
        vec_d s = load_d(t->gap + i) - log_d(load_d(t->size + i)), none = splat_d(0), one = splat_d(1);
        mask_d likely = (mask_d)(s >= none);
        vec_d e = exp_low_d(min_d(s, -s)), lost = log1p_d(e), more = one / (one + e);
        vec_d log_q = min_d(s, none) - lost, log_u = min_d(-s, none) - lost; /* log q and log (1 - q) */
        vec_d q = select_d(likely, more, e * more), u = select_d(likely, e * more, more);
        vec_d gamma = gamma_at(q, l), size = max_d(gamma, -gamma);
        mask_d focal = (mask_d)(gamma >= none);
        if (l->kind == INVERSE) focal = (mask_d)(one < none);
        vec_d power = exp_d(size * select_d(focal, log_u, log1p_d(q)));
        vec_d loss = -power * log_q;
        vec_d slope = select_d(focal, u - size * q * log_q, u * (one + size * q * log_q / (one + q)));
        slope = -power * slope;
        vec_d rival = load_d(t->rival + i);
        if (l->kind == DUAL) {
            vec_d lift = exp_d(size * log1p_d(rival));
            loss *= lift;
            slope *= lift;
            store_d(t->other + i, loss * size * rival / (one + rival));
        }
        store_d(t->loss + i, loss);
        store_d(t->own + i, slope);
    }
}

/* A row that is left out, or past the end. */
INLINE void blank_loss(struct loss_tile *t, ptrdiff_t r) {
    t->most[r] = INFINITY; /* exp(z - most) is 0 */
    t->size[r] = 1;
    t->gap[r] = t->rival[r] = 0;
    t->place[r] = 0;
}

/* What backward needs of each row; `share` weighs its loss. */
INLINE void keep_loss(const struct loss_tile *t, ptrdiff_t r, double share, struct kept_row *to) {
    double own = t->own[r] * share, other = t->other[r] * share;
    *to = (struct kept_row){t->most[r], -(own + other) / t->size[r], own, other, (double)t->place[r]};
}
#endif

/* Read a row of logits; 0 for one with a NaN, or an infinite logit other than a masked class's -inf. `x` is
 * scratch of whole vectors, -inf from column k on. */
INLINE int NAME(read_loss_row)(const REAL *z, ptrdiff_t k, ptrdiff_t label, REAL *x, int dual,
                               struct loss_tile *t, ptrdiff_t r) {
    ptrdiff_t padded = (k + LANES - 1) / LANES * LANES;
    REAL own = z[label];
    VEC most = NAME(splat)((REAL)-INFINITY), below = most;
    MASK odd = (MASK)(most != most);
    memcpy(x, z, (size_t)k * sizeof(REAL));
    x[label] = (REAL)-INFINITY;
    for (ptrdiff_t i = 0; i < padded; i += LANES) {
        VEC v = NAME(load)(x + i);
        odd |= (MASK)(v != v);
        most = NAME(max)(most, v);
        if (dual) below = NAME(max)(below, NAME(select)((MASK)(v < own), v, NAME(splat)((REAL)-INFINITY)));
    }
    REAL highest = NAME(largest)(most);
    if (NAME(any)(odd) || !(highest < (REAL)INFINITY) || !(own - own == 0)) return 0;
    blank_loss(t, r);
    t->gap[r] = 1e30;
    if (highest == (REAL)-INFINITY) return 1; /* no other class */
    NAME(wide) size = NAME(widen)(NAME(splat)(0));
    for (ptrdiff_t i = 0; i < padded;) {
        VEC part = NAME(splat)(0); /* short sums: float32 adds up thousands of terms poorly */
        for (ptrdiff_t end = i + 32 * LANES < padded ? i + 32 * LANES : padded; i < end; i += LANES)
            part += NAME(exp_low)(NAME(load)(x + i) - highest);
        size = NAME(wide_add)(size, NAME(widen)(part));
    }
    t->most[r] = highest;
    t->size[r] = NAME(wide_sum)(size);
    t->gap[r] = (double)own - (double)highest;
    REAL next = dual ? NAME(largest)(below) : (REAL)-INFINITY;
    if (next > (REAL)-INFINITY) {
        while (x[t->place[r]] != next) t->place[r]++;
        t->rival[r] = exp((double)next - (double)highest) / t->size[r];
    }
    return 1;
}

/* Sum the losses of all rows; see struct training. */
static int NAME(loss_forward)(const struct training *l) {
    ptrdiff_t k = l->n_classes, padded = (k + LANES - 1) / LANES * LANES;
    size_t bytes = ((size_t)padded * sizeof(REAL) + 63) / 64 * 64;
    REAL *x = aligned_alloc(64, bytes);
    if (!x) return NO_MEMORY;
    for (ptrdiff_t j = 0; j < padded; j++) x[j] = (REAL)-INFINITY;
    double sum = 0, total = 0, shares[LOSS_TILE];
    struct loss_tile t;
    memset(&t, 0, sizeof t);
    for (ptrdiff_t first = 0; first < l->n; first += LOSS_TILE) {
        ptrdiff_t count = l->n - first < LOSS_TILE ? l->n - first : LOSS_TILE;
        for (ptrdiff_t r = 0; r < LOSS_TILE; r++) {
            int64_t label = r < count ? l->labels[first + r] : l->ignore_index;
            shares[r] = 0;
            blank_loss(&t, r);
            if (label == l->ignore_index) continue;
            int status = label < 0 || label >= k ? WRONG_CODE : DONE;
            const REAL *row = (const REAL *)l->logits + (first + r) * k;
            if (status == DONE && !NAME(read_loss_row)(row, k, label, x, l->kind == DUAL, &t, r)) status = INVALID;
            if (status != DONE) {
                free(x);
                return status;
            }
            shares[r] = l->weight ? ((const REAL *)l->weight)[label] : 1;
        }
        loss_curves(&t, LOSS_TILE, l);
        for (ptrdiff_t r = 0; r < count; r++) {
            double loss = shares[r] == 0 ? 0 : shares[r] * t.loss[r];
            sum += loss;
            total += shares[r];
            if (l->reduction == EACH_ROW) ((REAL *)l->out)[first + r] = (REAL)loss;
            keep_loss(&t, r, shares[r], l->kept + first + r);
        }
    }
    free(x);
    *l->total = total;
    if (l->reduction != EACH_ROW) *(REAL *)l->out = (REAL)(l->reduction == MEAN ? sum / total : sum);
    return DONE;
}

/* Write the gradient in the logits, row by row, for upstream gradients of loss_forward's result. */
static int NAME(loss_backward)(const struct training *l) {
    ptrdiff_t k = l->n_classes;
    const REAL *upstream = l->upstream;
    for (ptrdiff_t r = 0; r < l->n; r++) {
        struct kept_row kept = l->kept[r];
        double scale = upstream[r * l->upstream_step] / (l->reduction == MEAN ? *l->total : 1);
        const REAL *z = (const REAL *)l->logits + r * k;
        REAL *to = (REAL *)l->out + r * k, most = (REAL)kept.most, factor = (REAL)(kept.factor * scale);
        if (l->labels[r] == l->ignore_index) {
            memset(to, 0, (size_t)k * sizeof(REAL));
            continue;
        }
        ptrdiff_t i = 0;
        for (; i + LANES <= k; i += LANES)
            NAME(store)(to + i, NAME(exp_low)(NAME(min)(NAME(load)(z + i) - most, NAME(splat)(0))) * factor);
        if (i < k) {
            REAL part[LANES];
            for (ptrdiff_t j = 0; j < LANES; j++) part[j] = i + j < k ? z[i + j] : most;
            VEC last = NAME(exp_low)(NAME(min)(NAME(load)(part) - most, NAME(splat)(0))) * factor;
            NAME(store)(part, last);
            for (ptrdiff_t j = i; j < k; j++) to[j] = part[j - i];
        }
        to[l->labels[r]] = (REAL)(kept.own * scale);
        if (l->kind == DUAL) to[(ptrdiff_t)kept.place] += (REAL)(kept.other * scale);
    }
    return DONE;
}
