"""Measure how often the stated 95 % intervals contain the truth, by simulation.

    python -P benchmarks/interval_coverage.py [repetitions]              # the intervals of evaluate
    python -P benchmarks/interval_coverage.py --bootstrap [repetitions]  # those of focalcal.bootstrap

Each scenario has a population of softmax rows p whose true probabilities q are known: q = p (calibrated),
q = softmax(log p / T) (over-confident for T > 1, under-confident for T < 1), or q shifted by class. Samples
are drawn from it, labels from q. The truth of a binned error is the population's over the sample's own bins.
Printed: the share of intervals that contain the truth, and how many lie above and below it.
"""

import sys

import numpy as np

from focalcal import evaluate
from focalcal.bins import equal_mass_edges, equal_width_edges, find_bin
from focalcal.bootstrap import binned_error, bootstrap, ks_error, mean_gap
from focalcal.confidences import Confidences

NAMES = ("nll", "brier", "accuracy", "ece", "ece_equal_mass", "classwise_ece")


def measure(scenario, repetitions, seed):
    population = Population(scenario)
    rng = np.random.default_rng([1, seed])
    above, below = dict.fromkeys(NAMES, 0), dict.fromkeys(NAMES, 0)
    for _ in range(repetitions):
        rows, y = population.sample(rng, scenario.n)
        result = evaluate(y, population.p[rows])
        edges = equal_mass_edges(population.confidence[rows], None, 15)
        truth = population.truth | {"ece_equal_mass": population.binned(edges)}
        for name in NAMES:
            above[name] += result[name].low > truth[name] + 1e-12
            below[name] += result[name].high < truth[name] - 1e-12
    high, low = ({name: c[name] / repetitions for name in NAMES} for c in (above, below))
    cells = [f"{1 - high[k] - low[k]:6.1%} ({high[k]:.1%} {low[k]:.1%})" for k in NAMES]
    print(f"{scenario!s:34}", *(f"{cell:>21}" for cell in cells), flush=True)


def measure_bootstrap(scenario, repetitions, seed):
    population = Population(scenario)
    rng = np.random.default_rng([2, seed])
    truth = {
        "mean_gap": population.gaps[-1],
        "ks_error": np.abs(population.gaps).max(),
        "ece": population.truth["ece"],
    }
    above, below = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0)
    for repetition in range(repetitions):
        rows, y = population.sample(rng, scenario.n)
        hit = population.p[rows].argmax(axis=1) == y
        cells = Confidences.of(population.confidence[rows], hit, None).cells()
        statistics = {
            "mean_gap": mean_gap,
            "ks_error": ks_error,
            "ece": binned_error(cells, equal_width_edges(15)),
        }
        for name, statistic in statistics.items():
            least = None if name == "mean_gap" else 0.0
            found = bootstrap(cells, statistic, draws=200, seed=repetition, least=least)
            above[name] += found.low > truth[name] + 1e-12
            below[name] += found.high < truth[name] - 1e-12
    high, low = ({name: c[name] / repetitions for name in truth} for c in (above, below))
    cells = [f"{1 - high[k] - low[k]:6.1%} ({high[k]:.1%} {low[k]:.1%})" for k in truth]
    print(f"{scenario!s:34}", *(f"{cell:>21}" for cell in cells), flush=True)


def main():
    numbers = [int(argument) for argument in sys.argv[1:] if argument.isdecimal()]
    repetitions = numbers[0] if numbers else 1000
    by_bootstrap = "--bootstrap" in sys.argv
    names = ("mean_gap", "ks_error", "ece") if by_bootstrap else NAMES
    error = (0.95 * 0.05 / repetitions) ** 0.5
    print(f"{repetitions} repetitions (standard error {error:.1%}): covered (too high, too low)")
    print(f"{'':34}", *(f"{name:>21}" for name in names))
    for seed, scenario in enumerate(SCENARIOS):
        (measure_bootstrap if by_bootstrap else measure)(scenario, repetitions, seed)


if __name__ == "__main__":
    main()
