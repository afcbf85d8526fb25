/* Vectors of one precision at one width, in the compilers' own vector language.
 *
 * `level.h` includes this file for double and then for float. A name made by NAME carries the precision:
 * NAME(exp) is exp_d or exp_f. REAL, INT and UINT are the number and the integers as wide as it; VEC, MASK and
 * BITS are vectors of them, all VECTOR_BYTES long. A MASK is all ones where a comparison holds.
 *
 * There is no include guard: the file is a template. Where the generic form compiles badly, and only there,
 * an x86 intrinsic stands beside it. */

typedef REAL NAME(vec) __attribute__((vector_size(VECTOR_BYTES)));
typedef INT NAME(mask) __attribute__((vector_size(VECTOR_BYTES)));
typedef UINT NAME(bits) __attribute__((vector_size(VECTOR_BYTES)));

enum { NAME(LANES) = VECTOR_BYTES / sizeof(REAL) };

/* A vector of REAL in double: one vector, or two for float. */
enum { NAME(PARTS) = sizeof(double) / sizeof(REAL) };
typedef struct {
    vec_d part[NAME(PARTS)];
} NAME(wide);

/* Loads and stores take any address: memcpy of a known size compiles to one unaligned move. */
INLINE VEC NAME(load)(const REAL *from) {
    VEC v;
    memcpy(&v, from, sizeof v);
    return v;
}

INLINE void NAME(store)(REAL *to, VEC v) { memcpy(to, &v, sizeof v); }

INLINE VEC NAME(splat)(REAL x) { return x - (VEC){0}; }

INLINE VEC NAME(select)(MASK where, VEC yes, VEC no) {
    return (VEC)((where & (MASK)yes) | (~where & (MASK)no));
}

/* 0 where the mask does not hold. */
INLINE VEC NAME(only)(MASK where, VEC x) { return (VEC)(where & (MASK)x); }

INLINE VEC NAME(max)(VEC a, VEC b) {
#if X86_BYTES == 64
    return (VEC)INTRINSIC(_mm512_max)(a, b);
#elif X86_BYTES == 32
    return (VEC)INTRINSIC(_mm256_max)(a, b);
#elif X86_BYTES == 16
    return (VEC)INTRINSIC(_mm_max)(a, b);
#else
    return NAME(select)((MASK)(a > b), a, b);
#endif
}

INLINE VEC NAME(min)(VEC a, VEC b) {
#if X86_BYTES == 64
    return (VEC)INTRINSIC(_mm512_min)(a, b);
#elif X86_BYTES == 32
    return (VEC)INTRINSIC(_mm256_min)(a, b);
#elif X86_BYTES == 16
    return (VEC)INTRINSIC(_mm_min)(a, b);
#else
    return NAME(select)((MASK)(a < b), a, b);
#endif
}

/* 0, 1, 2, …: the number of each lane. */
INLINE VEC NAME(iota)(void) {
    VEC v;
    for (int i = 0; i < LANES; i++) v[i] = (REAL)i;
    return v;
}

INLINE NAME(wide) NAME(widen)(VEC v) {
    NAME(wide) wide;
#if REAL_IS_DOUBLE
    wide.part[0] = v;
#elif X86_BYTES == 64
    wide.part[0] = (vec_d)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)v));
    wide.part[1] = (vec_d)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)v, 1));
#elif X86_BYTES == 32
    wide.part[0] = (vec_d)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)v));
    wide.part[1] = (vec_d)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)v, 1));
#else
    typedef float half __attribute__((vector_size(VECTOR_BYTES / 2)));
    half low, high;
    memcpy(&low, &v, sizeof low);
    memcpy(&high, (const char *)&v + sizeof low, sizeof high);
    wide.part[0] = __builtin_convertvector(low, vec_d);
    wide.part[1] = __builtin_convertvector(high, vec_d);
#endif
    return wide;
}

/* As many REAL as there are lanes of double, in double. */
INLINE vec_d NAME(load_double)(const REAL *from) {
#if REAL_IS_DOUBLE
    return load_d(from);
#elif X86_BYTES == 64
    return (vec_d)_mm512_cvtps_pd(_mm256_loadu_ps(from));
#elif X86_BYTES == 32
    return (vec_d)_mm256_cvtps_pd(_mm_loadu_ps(from));
#else
    typedef float half __attribute__((vector_size(VECTOR_BYTES / 2)));
    half v;
    memcpy(&v, from, sizeof v);
    return __builtin_convertvector(v, vec_d);
#endif
}

INLINE NAME(wide) NAME(wide_add)(NAME(wide) a, NAME(wide) b) {
    for (int i = 0; i < NAME(PARTS); i++) a.part[i] += b.part[i];
    return a;
}

/* The sum over the lanes, in double. */
INLINE double NAME(sum)(VEC v) {
    NAME(wide) wide = NAME(widen)(v);
    vec_d both = wide.part[0];
    double total = 0;
#if !REAL_IS_DOUBLE
    both += wide.part[1];
#endif
    for (int i = 0; i < LANES_d; i++) total += both[i];
    return total;
}

INLINE double NAME(wide_sum)(NAME(wide) wide) {
    vec_d both = wide.part[0];
    double total = 0;
    for (int i = 1; i < NAME(PARTS); i++) both += wide.part[i];
    for (int i = 0; i < LANES_d; i++) total += both[i];
    return total;
}

/* The largest lane. */
INLINE REAL NAME(largest)(VEC v) {
    REAL most = v[0];
    for (int i = 1; i < LANES; i++) most = v[i] > most ? v[i] : most;
    return most;
}

/* One bit for each lane: set where the mask holds. */
INLINE uint64_t NAME(mask_bits)(MASK where) {
#if X86_BYTES == 64 && REAL_IS_DOUBLE
    return _mm512_movepi64_mask((__m512i)where);
#elif X86_BYTES == 64
    return _mm512_movepi32_mask((__m512i)where);
#elif X86_BYTES == 32
    return (uint32_t)INTRINSIC(_mm256_movemask)((VEC)where);
#elif X86_BYTES == 16
    return (uint32_t)INTRINSIC(_mm_movemask)((VEC)where);
#else
    uint64_t bits = 0;
    for (int i = 0; i < LANES; i++) bits |= (uint64_t)(where[i] & 1) << i;
    return bits;
#endif
}

/* Whether the mask holds in any lane. */
INLINE int NAME(any)(MASK where) { return NAME(mask_bits)(where) != 0; }
