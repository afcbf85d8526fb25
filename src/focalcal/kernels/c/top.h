/* What both maps and fits need of the top class of a row, in double; lanes are rows. Included once a level. */

/* -q log q / (1 - q), and w = 1 - gamma q log q / (1 - q): `top_ratio` of reference.py. Where gamma is -1 and w
 * may be too small for its logarithm, w is left over (1 - q) / q, whose logarithm is to be added `log_too` times. */
struct top_ratio {
    vec_d ratio, w, log_too;
};

INLINE struct top_ratio top_ratio(vec_d odds, vec_d log_q, double gamma) {
    mask_d small = (mask_d)(odds < 0.01);
    vec_d series = 1.0 / 9 - odds * 0.1; /* x = S (1/2 - S/3 + S²/4 - …), with x = 1 + q log q / (1 - q) */
    for (int k = 8; k > 1; k--) series = 1.0 / k - odds * series;
    vec_d x = select_d(small, odds * series, 1.0 + log_q / select_d(small, splat_d(1), odds)), ratio = 1.0 - x;
    if (gamma > -1) return (struct top_ratio){ratio, x + (1.0 + gamma) * ratio, splat_d(0)};
    return (struct top_ratio){ratio, select_d(small, series, x), only_d(small, splat_d(1))};
}

/* log h of the top class. */
INLINE vec_d top_log_h(vec_d odds, vec_d log_odds, vec_d log_q, double gamma) {
    struct top_ratio top = top_ratio(odds, log_q, gamma);
    return log_q - gamma * (log_odds + log_q) - (log_d(top.w) + top.log_too * log_odds);
}
