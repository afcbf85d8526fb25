"""Measure how often the stated 95 % intervals contain the truth, by simulation.

    python benchmarks/interval_coverage.py [repetitions] [--more | --others | --kernel] [--n ROWS]

By default the intervals of evaluate; --more: those that invert a test by simulation, the uniform band of the KS
error, AURC, the mean gap, and the parts of a score. --others: top-label ECE, focal scores, entropy. --kernel: the kernel ECE's. Printed: the share of intervals
that contain the truth, and how many lie above and below it. For the populations see populations.py.
"""

import argparse

import numpy as np
from populations import (
    SCENARIOS,
    Population,
    binned_truths,
    event_truths,
    kernel_truth,
    other_truths,
)

from focalcal import decompose, evaluate, focal_score, kernel_ece, sharpness, top_label_ece
from focalcal.sums.bins import equal_mass_edges

STANDARD = ("nll", "brier", "accuracy", "ece", "ece_equal_mass", "classwise_ece")
OTHERS = ("top_label", "focal", "proper_focal", "entropy")
MORE = ("ece_l2", "mce", "smooth_ece", "ks_error", "mean_gap", "aurc", "isotonic")


def standard(population, rows, y):
    """Return estimates and truths of what evaluate shows."""
    edges = equal_mass_edges(population.confidence[rows], None, 15)
    truth = population.truth | {"ece_equal_mass": population.binned(edges)}
    return evaluate(y, population.p[rows]), truth


def more(population, rows, y):
    """Return estimates and truths of what is dearer."""
    from focalcal import ece

    p = population.p[rows]
    found = dict(evaluate(y, p, metrics="all"))
    found["mce"] = ece(y, p, norm="max")
    found["isotonic"] = decompose(y, p).calibration
    return found, event_truths(population) | binned_truths(population, population.confidence[rows])


def others(population, rows, y):
    """Return estimates and truths of what is left, and cheap."""
    p = population.p[rows]
    found = {
        "top_label": top_label_ece(y, p),
        "focal": focal_score(y, p, gamma=2.0),
        "proper_focal": focal_score(y, p, gamma=2.0, proper=True),
        "entropy": sharpness(p),
    }
    return found, other_truths(population)


def kernel(population, rows, y):
    """Return estimates and truths of the kernel ECE of the top class."""
    return {"kernel_ece": kernel_ece(y, population.p[rows], of="top")}, kernel_truth(population)


def measure(scenario, repetitions, seed, names, method):
    population = Population(scenario)
    rng = np.random.default_rng([1, seed])
    above, below = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for _ in range(repetitions):
        rows, y = population.sample(rng, scenario.n)
        found, truth = method(population, rows, y)
        for name in names:
            above[name] += found[name].low > truth[name] + 1e-9
            below[name] += found[name].high < truth[name] - 1e-9
    high, low = ({name: c[name] / repetitions for name in names} for c in (above, below))
    cells = [f"{1 - high[k] - low[k]:6.1%} ({high[k]:.1%} {low[k]:.1%})" for k in names]
    print(f"{scenario!s:34}", *(f"{cell:>21}" for cell in cells), flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("repetitions", nargs="?", type=int, default=1000)
    parser.add_argument("--more", action="store_true")
    parser.add_argument("--others", action="store_true")
    parser.add_argument("--kernel", action="store_true")
    parser.add_argument("--n", type=int)
    given = parser.parse_args()
    names, method = STANDARD, standard
    for chosen, *other in (
        (given.more, MORE, more),
        (given.others, OTHERS, others),
        (given.kernel, ("kernel_ece",), kernel),
    ):
        if chosen:
            names, method = other
    error = (0.95 * 0.05 / given.repetitions) ** 0.5
    print(f"{given.repetitions} repetitions (standard error {error:.1%}): covered (too high, too low)")
    print(f"{'':34}", *(f"{name:>21}" for name in names))
    for seed, scenario in enumerate(SCENARIOS):
        if given.n in (None, scenario.n):
            measure(scenario, given.repetitions, seed, names, method)


if __name__ == "__main__":
    main()
