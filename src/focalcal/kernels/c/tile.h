/* What belongs to a row, in double, ROWS of them at a time; lanes are rows. Included once a level.
 *
 * The formulas are those of reference.py, function by function: `softmax_rows`, `top_terms`, `rest_terms`,
 * `nll_rows`. Derivatives are in (log T, gamma), called t and g. */

struct tile {
    double gap[ROWS];    /* largest minus second largest logit, over T after softmax_rows */
    double label[ROWS];  /* label's minus second largest logit, over T after softmax_rows */
    double hit[ROWS];    /* 1 where the label is on top, else 0 */
    double weight[ROWS]; /* 0 past the end of the data */
    double size[ROWS], mean[ROWS], square[ROWS]; /* sums over the rest of e, e u, e u² */
    double log_odds[ROWS], odds[ROWS], log_q[ROWS], far[ROWS], far2[ROWS];
    double offset[ROWS], centre[ROWS], variance[ROWS], scale[ROWS]; /* what tail sums need of a row */
    double total[ROWS], t[ROWS], g[ROWS], tt[ROWS], tg[ROWS], gg[ROWS]; /* sums over the rest of weight × … */
    double ratio[ROWS], w[ROWS], log_w[ROWS], small[ROWS];               /* as top_ratio */
    double log_ratio[ROWS], against[ROWS], value[ROWS];                  /* odds and log p of the top class, mapped */
    double own_log_q[ROWS], own_q[ROWS], own_log_v[ROWS], own_w[ROWS], own_log_w[ROWS]; /* a label not on top */
};

enum { FIT_ROWS, FIT_WEIGHT, FIT_LOSS, FIT_T, FIT_G, FIT_TT, FIT_TG, FIT_GG, FIT_T_T, FIT_T_G, FIT_G_G };

/* One function over a whole tile: short loops, since a processor looks ahead only some dozens of operations,
 * and in a long one each would wait for the one before. */
#define EACH(function, from, to)                                                                              \
    for (ptrdiff_t i = 0; i < count; i += LANES_d) store_d(tile->to + i, function(load_d(tile->from + i)))

#define AT(field) load_d(tile->field + i)
#define PUT(field, value) store_d(tile->field + i, value)

/* Make a row past the end, which weighs nothing, one whose sums are finite. */
INLINE void blank_row(struct tile *tile, ptrdiff_t r) {
    tile->gap[r] = tile->hit[r] = tile->size[r] = tile->total[r] = 1;
    tile->label[r] = tile->mean[r] = tile->square[r] = 0;
    tile->t[r] = tile->g[r] = tile->tt[r] = tile->tg[r] = tile->gg[r] = 0;
}

/* The tempered softmax of each row, from its sums over the rest. */
INLINE void softmax_rows(struct tile *tile, ptrdiff_t count, double scale, int with_tail) {
    for (ptrdiff_t i = 0; i < count; i += LANES_d) {
        vec_d gap = AT(gap) * scale;
        PUT(gap, gap);
        PUT(odds, -gap);
        PUT(label, AT(label) * scale);
        PUT(size, max_d(splat_d(1e-150), AT(size)));
    }
    EACH(exp_low_d, odds, scale);
    for (ptrdiff_t i = 0; i < count; i += LANES_d) PUT(odds, AT(size) * AT(scale));
    EACH(-log1p_d, odds, log_q);
    if (with_tail) EACH(log_d, size, log_odds);
    for (ptrdiff_t i = 0; i < count; i += LANES_d) {
        vec_d one = 1.0 / AT(size), mean = AT(mean) * one, gap = AT(gap), odds = AT(odds), far = gap - mean;
        vec_d far2 = gap * gap - 2.0 * gap * mean + AT(square) * one, p = 1.0 / (1.0 + odds), v = odds * p;
        PUT(far, far);
        PUT(far2, far2);
        PUT(mean, v * far);
        PUT(square, v * far2);
        if (!with_tail) continue;
        PUT(log_odds, AT(log_odds) - gap);
        PUT(offset, AT(log_q) - gap);
        PUT(scale, AT(scale) * p);
        PUT(centre, min_d(splat_d(1e15), gap - v * far)); /* beyond, the rest weighs nothing: only finite */
        PUT(variance, max_d(splat_d(0), v * far2 - v * far * (v * far)));
    }
}

struct jet {
    vec_d value, t, g, tt, tg, gg;
};

INLINE void add_jet(vec_d *sums, struct jet f, vec_d weight) {
    vec_d wt = weight * f.t, wg = weight * f.g;
    sums[FIT_ROWS] += only_d((mask_d)(weight > 0.0), splat_d(1));
    sums[FIT_WEIGHT] += weight;
    sums[FIT_LOSS] += weight * f.value;
    sums[FIT_T] += wt;
    sums[FIT_G] += wg;
    sums[FIT_TT] += weight * f.tt;
    sums[FIT_TG] += weight * f.tg;
    sums[FIT_GG] += weight * f.gg;
    sums[FIT_T_T] += wt * wt;
    sums[FIT_T_G] += wt * wg;
    sums[FIT_G_G] += wg * wg;
}

/* -log p of the label under softmax(z / T). */
INLINE void temperature_rows(const struct tile *tile, ptrdiff_t count, vec_d *sums) {
    for (ptrdiff_t i = 0; i < count; i += LANES_d) {
        vec_d mean = AT(mean);
        vec_d label = select_d((mask_d)(AT(hit) > 0.0), splat_d(0), AT(label) - AT(gap)), slope = label + mean;
        struct jet jet = {.value = -AT(log_q) - label, .t = slope, .tt = AT(square) - mean * mean - slope};
        add_jet(sums, jet, AT(weight));
    }
}

/* log h of the top class; `less` are second derivatives less the products of the first, in which the huge
 * terms of a gamma near -1 cancel. */
struct top {
    vec_d t, g, tt, tg, gg, less_tt, less_tg, less_gg;
};

INLINE struct top top_terms(const struct tile *tile, ptrdiff_t i, double gamma) {
    vec_d odds = AT(odds), log_q = AT(log_q), far = AT(far), ratio = AT(ratio), log_w = AT(log_w);
    vec_d q = 1.0 / (1.0 + odds), v = odds * q, log_v = AT(log_odds) + log_q;
    vec_d inverse = gamma > -1 ? 1.0 / AT(w) : exp_d(min_d(splat_d(300), -log_w));
    vec_d rest = gamma > -1 ? v * inverse : exp_d(log_v - log_w);
    vec_d a = (1 + gamma) * q * inverse - gamma * ratio * rest, b = -ratio * inverse;
    vec_d slope = v + q * (gamma - 1) + a;
    vec_d bend = (gamma - 1) * q + v * (a + gamma * q * inverse) + a * a;
    vec_d own = q + q * (1.0 + log_q) * inverse, mixed = own + a * b;
    vec_d t = -slope * far, tt = bend * far * far + slope * (far - AT(far2) + v * far * far);
    return (struct top){
        .t = t,
        .g = b - log_v,
        .tt = tt,
        .tg = -far * mixed,
        .gg = b * b,
        .less_tt = tt - t * t,
        .less_tg = -far * (own - (slope - a) * b + slope * log_v),
        .less_gg = log_v * (2.0 * b - log_v),
    };
}

/* log(h/q) of a label that is not on top. */
INLINE struct jet rest_terms(const struct tile *tile, ptrdiff_t i, vec_d shift, vec_d variance, double gamma) {
    vec_d q = AT(own_q), log_v = AT(own_log_v), ql = q * AT(own_log_q), inverse = 1.0 / AT(own_w);
    vec_d one = 1.0 / (1.0 - q), odds = q * one, qi = q * inverse, spare = (gamma - 1) * odds;
    vec_d a = ((1 + gamma) * q + gamma * ql) * inverse, b = ql * inverse, slope = spare + a + 1.0;
    vec_d bend = spare * one + a + gamma * qi + a * a, mixed = odds + qi + b + a * b;
    return (struct jet){
        .value = (1 - gamma) * log_v - AT(own_log_w),
        .t = slope * shift,
        .g = b - log_v,
        .tt = bend * shift * shift - slope * (shift + variance),
        .tg = mixed * shift,
        .gg = b * b,
    };
}

/* The second derivative of log p of the top class, as a multiple of 1 - p so that nothing cancels. */
INLINE vec_d top_bend(vec_d less, vec_d ti, vec_d tj, vec_d ri, vec_d rj, vec_d rest2, vec_d p_rest) {
    return p_rest * (less + ti * rj + tj * ri - rest2 + p_rest * (ri - ti) * (rj - tj));
}

/* The logarithms and exponentials that nll_rows is made of. */
INLINE void prepare_nll(struct tile *tile, ptrdiff_t count, double gamma) {
    for (ptrdiff_t i = 0; i < count; i += LANES_d) {
        vec_d odds = AT(odds);
        struct top_ratio top = top_ratio(odds, AT(log_q), gamma);
        PUT(ratio, top.ratio);
        PUT(w, top.w);
        PUT(small, top.log_too);
    }
    EACH(log_d, w, log_w);
    for (ptrdiff_t i = 0; i < count; i += LANES_d) {
        vec_d log_q = AT(log_q), log_odds = AT(log_odds), offset = AT(offset);
        vec_d log_w = AT(log_w) + AT(small) * log_odds;
        vec_d u = max_d(splat_d(-1000), select_d((mask_d)(AT(hit) < 1.0), AT(label), splat_d(0)));
        PUT(log_w, log_w);
        PUT(log_ratio, offset - (log_q - gamma * (log_odds + log_q) - log_w));
        PUT(label, u);
        PUT(own_log_q, u + offset);
        PUT(total, max_d(splat_d(1e-150), AT(total)));
    }
    EACH(exp_d, log_ratio, against);
    for (ptrdiff_t i = 0; i < count; i += LANES_d) PUT(against, AT(against) * AT(total));
    EACH(-log1p_d, against, value);
    EACH(exp_low_d, own_log_q, own_q);
    EACH(log_half_d, own_q, own_log_v);
    for (ptrdiff_t i = 0; i < count; i += LANES_d) PUT(own_w, 1.0 - AT(own_q) - gamma * AT(own_q) * AT(own_log_q));
    EACH(log_d, own_w, own_log_w);
}

/* -log p of the label under the focal calibration map of softmax(z / T), from the tail's sums. */
INLINE void nll_rows(struct tile *tile, ptrdiff_t count, double gamma, vec_d *sums) {
    prepare_nll(tile, count, gamma);
    for (ptrdiff_t i = 0; i < count; i += LANES_d) {
        struct top top = top_terms(tile, i, gamma);
        vec_d one = 1.0 / AT(total), against = AT(against), value = AT(value), log_ratio = AT(log_ratio);
        vec_d rt = AT(t) * one, rg = AT(g) * one, rtt = AT(tt) * one, rtg = AT(tg) * one, rgg = AT(gg) * one;
        vec_d p_top = 1.0 / (1.0 + against), p_rest = against * p_top;
        struct jet jet = {
            .value = -value,
            .t = p_rest * (rt - top.t),
            .g = p_rest * (rg - top.g),
            .tt = -top_bend(top.less_tt, top.t, top.t, rt, rt, rtt, p_rest),
            .tg = -top_bend(top.less_tg, top.t, top.g, rt, rg, rtg, p_rest),
            .gg = -top_bend(top.less_gg, top.g, top.g, rg, rg, rgg, p_rest),
        };
        mask_d miss = (mask_d)(AT(hit) < 1.0);
        if (any_d(miss)) {
            vec_d u = AT(label);
            struct jet own = rest_terms(tile, i, AT(centre) - u, AT(variance), gamma);
            vec_d mt = p_top * top.t + p_rest * rt, mg = p_top * top.g + p_rest * rg;
            vec_d mtt = p_top * (top.t * top.t + top.tt) + p_rest * rtt;
            vec_d mtg = p_top * (top.t * top.g + top.tg) + p_rest * rtg;
            vec_d mgg = p_top * (top.g * top.g + top.gg) + p_rest * rgg;
            jet.value = select_d(miss, -(u + own.value + log_ratio + value), jet.value);
            jet.t = select_d(miss, mt - own.t, jet.t);
            jet.g = select_d(miss, mg - own.g, jet.g);
            jet.tt = select_d(miss, mtt - mt * mt - own.tt, jet.tt);
            jet.tg = select_d(miss, mtg - mt * mg - own.tg, jet.tg);
            jet.gg = select_d(miss, mgg - mg * mg - own.gg, jet.gg);
        }
        add_jet(sums, jet, AT(weight));
    }
}
