/* Vectors of 32 bytes with fused multiply-add: x86-64 processors since about 2013. */
#include "loops.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define LEVEL avx2
#define LEVEL_NAME "avx2"
#define VECTOR_BYTES 32
#define X86_BYTES 32

/* only the code between these marks may use the instructions: the module must load on any processor */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#include "level.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
