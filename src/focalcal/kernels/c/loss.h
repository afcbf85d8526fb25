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
    double rival[LOSS_TILE]; /* dual: the largest π below the label's probability, or 0; Brier: Σ π² */
    double loss[LOSS_TILE];
    double own[LOSS_TILE], other[LOSS_TILE]; /* slope in s; slope in log π of the rival, or in Σ π² */
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

/* The Brier scores of a tile, u² (1 + Σ π²) with u = 1 - q, and their slopes. */
INLINE void brier_scores(struct loss_tile *t, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; i += LANES_d) {
        vec_d s = load_d(t->gap + i) - log_d(load_d(t->size + i)), none = splat_d(0), one = splat_d(1);
        mask_d likely = (mask_d)(s >= none);
        vec_d e = exp_low_d(min_d(s, -s)), more = one / (one + e);
        vec_d q = select_d(likely, more, e * more), u = select_d(likely, e * more, more), uu = u * u;
        vec_d loss = uu * (one + load_d(t->rival + i));
        store_d(t->loss + i, loss);
        store_d(t->own + i, -2.0 * q * loss);
        store_d(t->other + i, uu);
    }
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
INLINE void keep_loss(const struct loss_tile *t, ptrdiff_t r, double share, int kind, struct kept_row *to) {
    double own = t->own[r] * share, other = t->other[r] * share, size = t->size[r];
    if (kind == BRIER) { /* Σ π² has the slopes 2 π_k (π_k - Σ π²) */
        double factor = -(own + 2 * other * t->rival[r]) / size;
        *to = (struct kept_row){t->most[r], factor, own, 2 * other / (size * size), 0};
        return;
    }
    *to = (struct kept_row){t->most[r], -(own + other) / size, own, other, (double)t->place[r]};
}
#endif

/* Put into place r of the tile what a row's logits came to; 0 for a row with an infinite logit (other than a
 * masked class's -inf) or a label that is masked. `squares` is Σ exp(z - most)² (or 0), `next` the largest logit
 * below the label's (or -inf). */
INLINE int NAME(settle_row)(struct loss_tile *t, ptrdiff_t r, REAL own, REAL most, double size, double squares,
                            REAL next, ptrdiff_t place) {
    blank_loss(t, r);
    if (!(most < (REAL)INFINITY) || !(own - own == 0)) return 0;
    t->gap[r] = 1e30;
    if (most == (REAL)-INFINITY) return 1; /* no other class */
    t->most[r] = most;
    t->size[r] = size;
    t->gap[r] = (double)own - (double)most;
    t->rival[r] = squares / (size * size);
    if (next > (REAL)-INFINITY) {
        t->place[r] = place;
        t->rival[r] = exp((double)next - (double)most) / size;
    }
    return 1;
}

/* Many classes: lanes are classes. `x` is scratch of whole vectors, -inf from column k on. */
INLINE int NAME(read_loss_row)(const REAL *z, ptrdiff_t k, ptrdiff_t label, REAL *x, int kind,
                               struct loss_tile *t, ptrdiff_t r) {
    ptrdiff_t padded = (k + LANES - 1) / LANES * LANES, place = 0;
    REAL own = z[label];
    VEC most = NAME(splat)((REAL)-INFINITY), below = most;
    MASK odd = (MASK)(most != most);
    memcpy(x, z, (size_t)k * sizeof(REAL));
    x[label] = (REAL)-INFINITY;
    for (ptrdiff_t i = 0; i < padded; i += LANES) {
        VEC v = NAME(load)(x + i);
        odd |= (MASK)(v != v);
        most = NAME(max)(most, v);
        if (kind == DUAL) below = NAME(max)(below, NAME(select)((MASK)(v < own), v, NAME(splat)((REAL)-INFINITY)));
    }
    if (NAME(any)(odd)) return 0;
    REAL highest = NAME(largest)(most), next = kind == DUAL ? NAME(largest)(below) : (REAL)-INFINITY;
    NAME(wide) size = NAME(widen)(NAME(splat)(0)), squares = size;
    for (ptrdiff_t i = 0; i < padded;) {
        VEC part = NAME(splat)(0), square = part; /* short sums: float32 adds up thousands of terms poorly */
        for (ptrdiff_t end = i + 32 * LANES < padded ? i + 32 * LANES : padded; i < end; i += LANES) {
            VEC e = NAME(exp_low)(NAME(load)(x + i) - highest);
            part += e;
            if (kind == BRIER) square += e * e;
        }
        size = NAME(wide_add)(size, NAME(widen)(part));
        squares = NAME(wide_add)(squares, NAME(widen)(square));
    }
    while (next > (REAL)-INFINITY && x[place] != next) place++;
    return NAME(settle_row)(t, r, own, highest, NAME(wide_sum)(size), NAME(wide_sum)(squares), next, place);
}

/* Few classes: lanes are rows. `x` is scratch of k × LOSS_TILE; a label of -1 leaves its row out. */
INLINE int NAME(read_loss_columns)(const REAL *z, ptrdiff_t k, const int64_t *labels, ptrdiff_t count, REAL *x,
                                   int kind, struct loss_tile *t) {
    REAL label[LOSS_TILE];
    int fine = 1;
    for (ptrdiff_t r = 0; r < LOSS_TILE; r++) {
        label[r] = r < count ? (REAL)labels[r] : -1;
        for (ptrdiff_t j = 0; j < k; j++) x[j * LOSS_TILE + r] = label[r] < 0 ? 0 : z[r * k + j];
    }
    for (ptrdiff_t i = 0; i < LOSS_TILE; i += LANES) {
        VEC nothing = NAME(splat)((REAL)-INFINITY), own = nothing, most = nothing, next = nothing;
        VEC size = NAME(splat)(0), squares = size, place = size, at = NAME(load)(label + i);
        MASK odd = (MASK)(own != own);
        for (ptrdiff_t j = 0; j < k; j++) {
            VEC v = NAME(load)(x + j * LOSS_TILE + i);
            MASK is_own = (MASK)(at == (REAL)j);
            odd |= (MASK)(v != v);
            own = NAME(select)(is_own, v, own);
            v = NAME(select)(is_own, nothing, v);
            most = NAME(max)(most, v);
            NAME(store)(x + j * LOSS_TILE + i, v);
        }
        for (ptrdiff_t j = 0; j < k; j++) {
            VEC v = NAME(load)(x + j * LOSS_TILE + i);
            VEC e = NAME(exp_low)(v - most);
            size += e;
            if (kind == BRIER) squares += e * e;
            if (kind != DUAL) continue;
            MASK nearer = (MASK)(v < own) & (MASK)(v > next);
            next = NAME(select)(nearer, v, next);
            place = NAME(select)(nearer, NAME(splat)((REAL)j), place);
        }
        for (int r = 0; r < LANES; r++) {
            if (label[i + r] < 0) continue;
            ptrdiff_t rival = (ptrdiff_t)place[r];
            if (odd[r] || !NAME(settle_row)(t, i + r, own[r], most[r], size[r], squares[r], next[r], rival))
                fine = 0;
        }
    }
    return fine;
}

/* Read a tile's rows; DONE, INVALID for values that are left to torch, or WRONG_CODE. */
INLINE int NAME(read_loss_tile)(const struct training *l, ptrdiff_t first, ptrdiff_t count, REAL *x,
                                struct loss_tile *t, double *shares) {
    int64_t labels[LOSS_TILE];
    ptrdiff_t k = l->n_classes;
    const REAL *z = (const REAL *)l->logits + first * k;
    for (ptrdiff_t r = 0; r < LOSS_TILE; r++) {
        labels[r] = r < count ? l->labels[first + r] : l->ignore_index;
        shares[r] = 0;
        blank_loss(t, r);
        if (labels[r] == l->ignore_index) {
            labels[r] = -1;
            continue;
        }
        if (labels[r] < 0 || labels[r] >= k) return WRONG_CODE;
        shares[r] = l->weight ? ((const REAL *)l->weight)[labels[r]] : 1;
    }
    if (k < NARROW) return NAME(read_loss_columns)(z, k, labels, count, x, l->kind, t) ? DONE : INVALID;
    for (ptrdiff_t r = 0; r < count; r++) {
        if (labels[r] < 0) continue;
        if (!NAME(read_loss_row)(z + r * k, k, labels[r], x, l->kind, t, r)) return INVALID;
    }
    return DONE;
}

/* Sum the losses of all rows; see struct training. */
static int NAME(loss_forward)(const struct training *l) {
    ptrdiff_t k = l->n_classes, items = k < NARROW ? k * LOSS_TILE : (k + LANES - 1) / LANES * LANES;
    REAL *x = aligned_alloc(64, ((size_t)items * sizeof(REAL) + 63) / 64 * 64);
    if (!x) return NO_MEMORY;
    for (ptrdiff_t j = 0; j < items; j++) x[j] = (REAL)-INFINITY;
    double sum = 0, total = 0, shares[LOSS_TILE];
    struct loss_tile t;
    memset(&t, 0, sizeof t);
    int status = DONE;
    for (ptrdiff_t first = 0; first < l->n; first += LOSS_TILE) {
        ptrdiff_t count = l->n - first < LOSS_TILE ? l->n - first : LOSS_TILE;
        status = NAME(read_loss_tile)(l, first, count, x, &t, shares);
        if (status != DONE) break;
        if (l->kind == BRIER)
            brier_scores(&t, count);
        else
            loss_curves(&t, count, l);
        for (ptrdiff_t r = 0; r < count; r++) {
            double loss = shares[r] == 0 ? 0 : shares[r] * t.loss[r];
            sum += loss;
            total += shares[r];
            if (l->reduction == EACH_ROW) ((REAL *)l->out)[first + r] = (REAL)loss;
            keep_loss(&t, r, shares[r], l->kind, l->kept + first + r);
        }
    }
    free(x);
    *l->total = total;
    if (l->reduction != EACH_ROW) *(REAL *)l->out = (REAL)(l->reduction == MEAN ? sum / total : sum);
    return status;
}

/* The gradient in the logits other than the label's. */
INLINE VEC NAME(slopes)(const REAL *z, REAL most, REAL factor, REAL square) {
    VEC e = NAME(exp_low)(NAME(min)(NAME(load)(z) - most, NAME(splat)(0)));
    return e * (factor + e * square);
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
        REAL square = l->kind == BRIER ? (REAL)(kept.other * scale) : 0;
        if (l->labels[r] == l->ignore_index) {
            memset(to, 0, (size_t)k * sizeof(REAL));
            continue;
        }
        if (k < LANES) {
            REAL part[LANES];
            for (ptrdiff_t j = 0; j < LANES; j++) part[j] = j < k ? z[j] : most;
            NAME(store)(part, NAME(slopes)(part, most, factor, square));
            for (ptrdiff_t j = 0; j < k; j++) to[j] = part[j];
        }
        /* the last vector may overlap the one before */
        for (ptrdiff_t i = 0; i < k && k >= LANES; i += LANES) {
            ptrdiff_t at = i < k - LANES ? i : k - LANES;
            NAME(store)(to + at, NAME(slopes)(z + at, most, factor, square));
        }
        to[l->labels[r]] = (REAL)(kept.own * scale);
        if (l->kind == DUAL) to[(ptrdiff_t)kept.place] += (REAL)(kept.other * scale);
    }
    return DONE;
}
