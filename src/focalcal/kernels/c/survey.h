/* What a fit looks at first: sums over rows of the top, the label's and the mean logit; a template.
 * out: rows of positive weight whose label is not on top; Σ w (top - mean); Σ w (mean - label); Σ w. */
static int NAME(survey)(const struct scores *s, const int64_t *codes, const double *weight, double *out) {
    int narrow = s->n_classes < NARROW, status = 0;
    ptrdiff_t step = narrow ? ROWS : NAME(tile_rows)(s), length = NAME(padded)(s), k = s->n_classes;
    ptrdiff_t of_class = narrow ? ROWS : 1, of_row = narrow ? 1 : length;
    REAL *x = NAME(new_block)(s);
    if (!x) status = -2;
    memset(out, 0, 4 * sizeof *out);
    for (ptrdiff_t first = 0; first < s->n && !status; first += step) {
        ptrdiff_t count = s->n - first < step ? s->n - first : step;
        if (narrow)
            NAME(load_logit_columns)(s, first, count, x);
        else
            NAME(load_logit_rows)(s, first, count, x);
        for (ptrdiff_t r = 0; r < count && !status; r++) {
            ptrdiff_t code = codes[first + r], seen = 0;
            double total = 0, w = weight ? weight[first + r] : 1, mean;
            REAL top = (REAL)-INFINITY;
            if (code < 0 || code >= k) {
                status = -1;
                break;
            }
            for (ptrdiff_t j = 0; j < k; j++) {
                REAL z = x[r * of_row + j * of_class];
                int counts = z != (REAL)-INFINITY;
                seen += counts;
                total += counts ? (double)z : 0;
                top = z > top ? z : top;
            }
            mean = total / (double)seen;
            REAL label = x[r * of_row + code * of_class];
            out[0] += label != top && w > 0;
            out[1] += w * ((double)top - mean);
            out[2] += w * (mean - (double)label);
            out[3] += w;
        }
    }
    free(x);
    return status;
}
