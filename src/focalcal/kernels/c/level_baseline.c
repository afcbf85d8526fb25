/* Vectors of 16 bytes, which every x86-64 and arm64 processor has. */
#include "loops.h"

#define LEVEL baseline
#define LEVEL_NAME "baseline"
#define VECTOR_BYTES 16
#if defined(__x86_64__)
#include <immintrin.h>
#define X86_BYTES 16
#else
#define X86_BYTES 0
#endif

#include "level.h"
