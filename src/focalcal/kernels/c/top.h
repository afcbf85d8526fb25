/* What both maps and fits need of the top class of a row, in double; lanes are rows. Included once a level. */

/* -q log q / (1 - q), and the logarithm of w = 1 - gamma q log q / (1 - q): `top_ratio` of reference.py. */
struct top_ratio {
    vec_d ratio, w, log_w;
};

INLINE struct top_ratio top_ratio(vec_d odds, vec_d log_odds, vec_d log_q, double gamma) {
    mask_d small = (mask_d)(odds < 0.01);
    vec_d series = 1.0 / 9 - odds * 0.1; /* x = S (1/2 - S/3 + S²/4 - …), with x = 1 + q log q / (1 - q) */
    for (int k = 8; k > 1; k--) series = 1.0 / k - odds * series;
    vec_d x = select_d(small, odds * series, 1.0 + log_q / select_d(small, splat_d(1), odds));
    vec_d ratio = 1.0 - x, w = x + (1.0 + gamma) * ratio, log_w;
    if (gamma > -1)
        log_w = log_d(w);
    else
        log_w = log_d(select_d(small, series, x)) + select_d(small, log_odds, splat_d(0));
    return (struct top_ratio){ratio, w, log_w};
}

/* log h of the top class. */
INLINE vec_d top_log_h(vec_d odds, vec_d log_odds, vec_d log_q, double gamma) {
    return log_q - gamma * (log_odds + log_q) - top_ratio(odds, log_odds, log_q, gamma).log_w;
}
