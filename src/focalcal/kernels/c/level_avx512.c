/* Vectors of 64 bytes: x86-64 processors with AVX-512 F, DQ and VL.
 *
 * With FOCALCAL_EMULATE_AVX512 the compiler makes them of shorter ones, so that a processor without AVX-512
 * can test everything that depends on the number of lanes. */
#include "loops.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define LEVEL avx512
#define LEVEL_NAME "avx512"
#define VECTOR_BYTES 64

#if defined(FOCALCAL_EMULATE_AVX512)
#define X86_BYTES 0
#else
#define X86_BYTES 64
#endif

#if defined(__clang__) && defined(FOCALCAL_EMULATE_AVX512)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#elif defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512vl"))), apply_to = function)
#elif defined(FOCALCAL_EMULATE_AVX512)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl")
#endif

#include "level.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
