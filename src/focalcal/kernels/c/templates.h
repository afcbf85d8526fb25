/* Every template, in the order in which they build on each other. */
#include "simd.h"

#include "elementary.h"

#include "blocks.h"


#include "judge.h"

#include "judge_sums.h"
