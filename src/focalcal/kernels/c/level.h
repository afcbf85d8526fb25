/* Every loop for one level of vector instructions: included once by each level_*.c, which defines
 * LEVEL (its name), VECTOR_BYTES, and X86_BYTES (the same where x86 intrinsics may be used, else 0).
 *
 * The templates are included for double and then for float; what belongs to a row is always double. */

#define JOIN(a, b) a##b
#define JOINED(a, b) JOIN(a, b)
#define VEC NAME(vec)
#define MASK NAME(mask)
#define BITS NAME(bits)
#define LANES NAME(LANES)

#define REAL_IS_DOUBLE 1
#define REAL double
#define INT int64_t
#define UINT uint64_t
#define NAME(x) x##_d
#define INTRINSIC(x) x##_pd
#include "templates.h"
#undef REAL_IS_DOUBLE
#undef REAL
#undef INT
#undef UINT
#undef NAME
#undef INTRINSIC

#define REAL_IS_DOUBLE 0
#define REAL float
#define INT int32_t
#define UINT uint32_t
#define NAME(x) x##_f
#define INTRINSIC(x) x##_ps
#include "templates.h"

const struct loops JOINED(loops_, LEVEL) = {
    .name = LEVEL_NAME,
    .elementary_d = elementary_d,
    .elementary_f = elementary_f,
    .judge_d = judge_d,
    .judge_f = judge_f,
    .map_rows_d = map_rows_d,
    .map_rows_f = map_rows_f,
    .fit_sums_d = fit_sums_d,
    .fit_sums_f = fit_sums_f,
    .survey_d = survey_d,
    .survey_f = survey_f,
    .loss_forward_d = loss_forward_d,
    .loss_forward_f = loss_forward_f,
    .loss_backward_d = loss_backward_d,
    .loss_backward_f = loss_backward_f,
    .inverse_rows_d = inverse_rows_d,
    .inverse_rows_f = inverse_rows_f,
    .inverse_pull_d = inverse_pull_d,
    .inverse_pull_f = inverse_pull_f,
};
