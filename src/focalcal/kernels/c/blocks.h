/* Rows of scores into buffers that vectors can run over; a template, see simd.h.
 *
 * Few classes (K < NARROW): ROWS rows at a time, one class after the other, so that lanes are rows.
 * Many classes: row after row, each padded to whole vectors, so that lanes are classes.
 * Either way the source may lie in memory row by row, column by column, or in any strides. */

#ifndef FOCALCAL_BLOCKS
#define FOCALCAL_BLOCKS
enum { NARROW = 32, ROWS = 64, TILE = 16, TILE_BYTES = 16384 };
#define FLOOR 1e-30 /* probabilities below this are raised to it before the logarithm */
#endif

/* Length of a row that is padded to whole vectors. */
INLINE ptrdiff_t NAME(padded)(const struct scores *s) { return (s->n_classes + LANES - 1) / LANES * LANES; }

/* Rows that load_rows takes at once: few enough for the cache. Where a column is contiguous in memory, at
 * least as many as share a line of it. */
INLINE ptrdiff_t NAME(tile_rows)(const struct scores *s) {
    ptrdiff_t rows = TILE_BYTES / (NAME(padded)(s) * (ptrdiff_t)sizeof(REAL));
    if (s->class_step != 1 || rows > TILE) return TILE;
    return rows < 1 ? 1 : rows;
}

/* A buffer for load_columns, or for load_rows; free() it. NULL without memory. */
INLINE REAL *NAME(new_block)(const struct scores *s) {
    ptrdiff_t items = s->n_classes < NARROW ? s->n_classes * ROWS : NAME(padded)(s) * NAME(tile_rows)(s);
    size_t bytes = ((size_t)items * sizeof(REAL) + 63) / 64 * 64;
    return aligned_alloc(64, bytes);
}

/* The one column of scores of two classes, as two. */
INLINE void NAME(load_single)(const struct scores *s, ptrdiff_t first, ptrdiff_t count, REAL *to) {
    for (ptrdiff_t r = 0; r < ROWS; r++) {
        ptrdiff_t at = (first + (r < count ? r : count - 1)) * s->row_step;
        REAL x = s->is_double ? (REAL)((const double *)s->data)[at] : (REAL)((const float *)s->data)[at];
        if (s->is_probs) {
            x = x > 1 ? 1 : x < 0 ? 0 : x;
            to[r] = 1 - x; /* exact in double for every float */
        } else {
            to[r] = 0;
        }
        to[ROWS + r] = x;
    }
}

/* Load rows first..first + count - 1 (1 to ROWS of them), class j of row r to to[j * ROWS + r]. The last row
 * fills the places that are left, so that every lane holds a row of the data. */
INLINE void NAME(load_columns)(const struct scores *s, ptrdiff_t first, ptrdiff_t count, REAL *to) {
    const REAL *from = (const REAL *)s->data + (s->is_single ? 0 : first * s->row_step);
    ptrdiff_t k = s->n_classes, row = s->row_step, class = s->class_step;
    if (s->is_single) {
        NAME(load_single)(s, first, count, to);
        return;
    }
    if (row == 1) {
        for (ptrdiff_t j = 0; j < k; j++)
            memcpy(to + j * ROWS, from + j * class, (size_t)count * sizeof(REAL));
    } else {
        for (ptrdiff_t j = 0; j < k; j++)
            for (ptrdiff_t r = 0; r < count; r++) to[j * ROWS + r] = from[r * row + j * class];
    }
    if (count < ROWS) {
        for (ptrdiff_t j = 0; j < k; j++)
            for (ptrdiff_t r = count; r < ROWS; r++) to[j * ROWS + r] = to[j * ROWS + count - 1];
    }
}

/* Load rows first..first + count - 1 (at most tile_rows), class j of row r to to[r * padded + j]. What pads a
 * row weighs nothing: -inf among logits, 0 among probabilities. */
INLINE void NAME(load_rows)(const struct scores *s, ptrdiff_t first, ptrdiff_t count, REAL *to) {
    const REAL *from = (const REAL *)s->data + first * s->row_step;
    ptrdiff_t k = s->n_classes, length = NAME(padded)(s), row = s->row_step, class = s->class_step;
    REAL nothing = s->is_probs ? (REAL)0 : (REAL)-INFINITY;
    if (class == 1) {
        for (ptrdiff_t r = 0; r < count; r++)
            memcpy(to + r * length, from + r * row, (size_t)k * sizeof(REAL));
    } else {
        for (ptrdiff_t j = 0; j < k; j++)
            for (ptrdiff_t r = 0; r < count; r++) to[r * length + j] = from[r * row + j * class];
    }
    for (ptrdiff_t r = 0; r < count; r++)
        for (ptrdiff_t j = k; j < length; j++) to[r * length + j] = nothing;
}

/* Turn n loaded probabilities (a whole number of vectors) into logits. Padding becomes log(FLOOR): a loop
 * over lanes that are classes must put -inf there again. */
INLINE void NAME(probs_to_logits)(REAL *x, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i += LANES)
        NAME(store)(x + i, NAME(log)(NAME(max)(NAME(load)(x + i), NAME(splat)((REAL)FLOOR))));
}

/* Load rows as logits, whatever they are, by classes (lanes are rows) or by rows (lanes are classes). */
INLINE void NAME(load_logit_columns)(const struct scores *s, ptrdiff_t first, ptrdiff_t count, REAL *to) {
    NAME(load_columns)(s, first, count, to);
    if (s->is_probs) NAME(probs_to_logits)(to, s->n_classes * ROWS);
}

INLINE void NAME(load_logit_rows)(const struct scores *s, ptrdiff_t first, ptrdiff_t count, REAL *to) {
    NAME(load_rows)(s, first, count, to);
    if (!s->is_probs) return;
    ptrdiff_t length = NAME(padded)(s);
    NAME(probs_to_logits)(to, count * length);
    for (ptrdiff_t r = 0; r < count; r++)
        for (ptrdiff_t j = s->n_classes; j < length; j++) to[r * length + j] = (REAL)-INFINITY;
}
