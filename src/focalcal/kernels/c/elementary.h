/* exp, log and their relatives on vectors of one precision; a template, see simd.h.
 *
 * Every coefficient is that of the polynomial through the function's values at the Chebyshev nodes of the
 * interval, worked out in 60 digits; the degree is the lowest at which the error is well below one unit in
 * the last place. tests/test_compiled.py measures what is left after rounding. */

#ifndef FOCALCAL_COEFFICIENTS
#define FOCALCAL_COEFFICIENTS
/* (exp(r) - 1 - r) / r² for |r| <= log(2)/2; relative error of exp 2e-17 and 1e-8 */
static const double EXP_d[] = {0.500000000000000102,   0.166666666666666675,    0.0416666666666241619,
                               0.00833333333333006445, 0.00138888889171967191,  0.000198412698630405453,
                               2.48015213223686933e-5, 2.75572684803100255e-6, 2.76200758799833666e-7,
                               2.51003758325612337e-8};
static const float EXP_f[] = {0.5f, 0.166665770255979882f, 0.041666554662050534f, 0.0083631730745137109f,
                              0.00139261761199355789f};
/* (2 artanh(s) - 2s) / s³ as a polynomial in s², for s up to 3 - sqrt(8): log of sqrt(1/2) to sqrt(2) */
static const double LOG_d[] = {0.666666666666666969, 0.399999999998995045, 0.285714286259754849,
                               0.222222111347950799, 0.181828891252617221, 0.153317216005560413,
                               0.146164496850434059};
static const float LOG_f[] = {0.66666685039575855f, 0.399887805660219819f, 0.295799493919727847f};
/* the same for s up to 1/3: log1p of -1/2 to 0 */
static const double HALF_d[] = {0.666666666666666586, 0.400000000000145827, 0.285714285671087572,
                                0.22222222717427863,  0.181817894361328582, 0.153855700649586231,
                                0.133141442096549362, 0.120010728095907125, 0.0880073848614467388,
                                0.161640456119435322};
static const float HALF_f[] = {0.666666673205274125f, 0.399997063319297174f, 0.285923579943028377f,
                               0.217065758008803726f, 0.232243292240233488f};
#define POLYNOMIAL(c, x) NAME(polynomial)(c, sizeof(c) / sizeof((c)[0]), x)
#endif

#if REAL_IS_DOUBLE
#define MANTISSA 52
#define BIAS 1023
#define LN2_HIGH 0.69314718055989033 /* 33 bits: times any exponent it is exact */
#define LN2_LOW 5.4979230187083712e-14
#define EXP_LOWEST -708.39
#define EXP_HIGHEST 709.78
#define SMALLEST 2.2250738585072014e-308 /* the smallest normal number */
#define SQRT_HALF_BITS 0x3fe6a09e667f3bcdULL
#else
#define MANTISSA 23
#define BIAS 127
#define LN2_HIGH 0.693145751953125f /* 15 bits */
#define LN2_LOW 1.42860682030941723e-6f
#define EXP_LOWEST -87.33f
#define EXP_HIGHEST 88.72f
#define SMALLEST 1.17549435e-38f
#define SQRT_HALF_BITS 0x3f3504f3U
#endif
/* Adding this rounds to a whole number and leaves it in the lowest bits of the sum. */
#define ROUND ((REAL)(((UINT)3) << (MANTISSA - 1)))

INLINE VEC NAME(polynomial)(const REAL *c, int terms, VEC x) {
    VEC sum = NAME(splat)(c[terms - 1]);
    for (int k = terms - 2; k >= 0; k--) sum = sum * x + c[k];
    return sum;
}

/* exp of x <= EXP_HIGHEST; 0 below the smallest normal number, and for -inf. exp(0) is 1 exactly. */
INLINE VEC NAME(exp_low)(VEC x) {
    VEC shifted = x * (REAL)1.44269504088896341 + ROUND;
    VEC k = shifted - ROUND;
    VEC r = x - k * LN2_HIGH - k * LN2_LOW;
    VEC value = r + r * r * POLYNOMIAL(NAME(EXP), r) + (REAL)1;
    VEC scaled = (VEC)((BITS)value + ((BITS)shifted << MANTISSA)); /* the exponent grows by k */
    return NAME(only)((MASK)(x >= (REAL)EXP_LOWEST), scaled);
}

/* exp of any number but NaN; +inf where it overflows. */
INLINE VEC NAME(exp)(VEC x) {
    return NAME(select)((MASK)(x > (REAL)EXP_HIGHEST), NAME(splat)((REAL)INFINITY), NAME(exp_low)(x));
}

/* log1p(f) for small f, given a polynomial for it: with s = f/(2 + f), log1p(f) = 2 artanh(s), and 2s is
 * f - s·f, so that the rounding of s touches only what is small beside f. `far` is added to the small part. */
#define LOG_CORE(c, f, over, far)                                                                            \
    VEC s = (over), z = s * s, half = (REAL)0.5 * (f) * (f);                                                 \
    VEC small = half - (s * (half + z * POLYNOMIAL(c, z)) + (far));

/* log of a positive normal number; -inf for 0 and what is too small to be normal. */
INLINE VEC NAME(log)(VEC x) {
    /* x = 2^k m with m from sqrt(1/2) to sqrt(2) */
    BITS bits = (BITS)x, away = bits - (UINT)SQRT_HALF_BITS;
    MASK whole = (MASK)away >> MANTISSA;
    VEC m = (VEC)(bits - ((BITS)whole << MANTISSA));
    VEC k = (VEC)((MASK)NAME(splat)(ROUND) + whole) - ROUND;
    VEC f = m - (REAL)1;
    LOG_CORE(NAME(LOG), f, f / ((REAL)2 + f), k * LN2_LOW)
    VEC value = k * LN2_HIGH - (small - f);
    return NAME(select)((MASK)(x >= (REAL)SMALLEST), value, NAME(splat)((REAL)-INFINITY));
}

/* log(1 + x) for x > -1, to full relative accuracy near 0 too. */
INLINE VEC NAME(log1p)(VEC x) {
    VEC u = (REAL)1 + x;
    VEC lost = (x - (u - (REAL)1)) / u; /* what the sum rounded away */
    return NAME(log)(u) + lost;
}

/* log(1 - q) for q in [0, 1/2], to full relative accuracy. */
INLINE VEC NAME(log_half)(VEC q) {
    VEC f = -q;
    LOG_CORE(NAME(HALF), f, f / ((REAL)2 + f), (REAL)0)
    return f - small;
}

/* The same for who knows 1 / (2 - q). */
INLINE VEC NAME(log_half_over)(VEC q, VEC over) {
    VEC f = -q;
    LOG_CORE(NAME(HALF), f, f * over, (REAL)0)
    return f - small;
}

#undef MANTISSA
#undef BIAS
#undef LN2_HIGH
#undef LN2_LOW
#undef EXP_LOWEST
#undef EXP_HIGHEST
#undef SMALLEST
#undef SQRT_HALF_BITS
#undef ROUND
#undef LOG_CORE

/* One function over an array, so that the tests can measure its error. */
static int NAME(elementary)(int which, const REAL *in, REAL *out, ptrdiff_t n) {
    REAL part[LANES];
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        size_t bytes = sizeof(REAL) * (size_t)(n - i < LANES ? n - i : LANES);
        for (int k = 0; k < LANES; k++) part[k] = (REAL)0.25;
        memcpy(part, in + i, bytes);
        VEC x = NAME(load)(part);
        switch (which) {
        case 0: x = NAME(exp)(x); break;
        case 1: x = NAME(exp_low)(x); break;
        case 2: x = NAME(log)(x); break;
        case 3: x = NAME(log1p)(x); break;
        case 4: x = NAME(log_half)(x); break;
        default: return -1;
        }
        NAME(store)(part, x);
        memcpy(out + i, part, bytes);
    }
    return 0;
}
