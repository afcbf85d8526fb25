/* Every template, in the order in which they build on each other. */
#include "simd.h"

#include "elementary.h"

#include "blocks.h"

#if REAL_IS_DOUBLE
#include "top.h"

#include "tile.h"
#endif
#include "fit.h"
#include "survey.h"

#include "judge.h"

#include "judge_sums.h"

#include "map.h"

#include "loss.h"

#include "inverse.h"
