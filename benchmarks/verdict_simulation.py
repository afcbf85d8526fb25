"""Measure by simulation whether verdicts can be trusted: tests, sample sizes, comparisons.

    python benchmarks/verdict_simulation.py tests [repetitions]       # size and power of the tests of calibration
    python benchmarks/verdict_simulation.py sizes [repetitions]       # the power at the size that sample_size says
    python benchmarks/verdict_simulation.py comparisons [repetitions] # coverage and rejections of compare

For the populations see populations.py; there is one more here whose gaps wiggle: they change sign every tenth.
"""

import sys

import numpy as np
from populations import SCENARIOS, Population, Scenario, softmax

from focalcal import compare, ece, sample_size
from focalcal.intervals.gap_interval import chance
from focalcal.sums.bins import equal_width_edges, find_bin
from focalcal.sums.judging import judge
from focalcal.verdicts import calibration_tests

LEVEL = 0.05


def rejections(predict, repetitions, seed):
    """Return how often each test rejects calibration at 5 %."""
    rng = np.random.default_rng([7, seed])
    found = dict.fromkeys((*calibration_tests.METHODS, "ece"), 0)
    for repetition in range(repetitions):
        p, y = predict(rng)
        for method in calibration_tests.METHODS:
            found[method] += (
                calibration_tests.test_calibration(y, p, method=method, draws=199, seed=repetition).p_value
                <= LEVEL
            )
        sums, _ = judge(y, p, None, "probs", None, bins=15)
        found["ece"] += chance(sums.top) <= LEVEL
    return {name: count / repetitions for name, count in found.items()}


def of_population(scenario):
    population = Population(scenario)

    def predict(rng):
        rows, y = population.sample(rng, scenario.n)
        return population.p[rows], y

    return predict


def wiggling(n, size):
    """Two classes; the top class's true rate is its confidence ± size, by turns over ten parts of [.5, 1]."""

    def predict(rng):
        c = 0.55 + 0.4 * rng.random(n)
        rate = c + size * np.where((c * 20).astype(int) % 2, 1, -1)
        return np.stack([1 - c, c], axis=1), (rng.random(n) < rate).astype(int)

    return predict


def tests(repetitions):
    error = (LEVEL * (1 - LEVEL) / repetitions) ** 0.5
    print(
        f"Share of {repetitions} samples rejected at {LEVEL:.0%} (standard error {error:.1%} where calibrated)"
    )
    names = (*calibration_tests.METHODS, "ece")
    print(f"{'':34}", *(f"{name:>13}" for name in names), flush=True)
    cases = [(str(s), of_population(s)) for s in SCENARIOS]
    cases += [
        (f"gaps of ±{size} by turns n={n}", wiggling(n, size))
        for n, size in ((500, 0.05), (10_000, 0.02), (10_000, 0.04))
    ]
    for seed, (name, predict) in enumerate(cases):
        found = rejections(predict, repetitions, seed)
        print(f"{name:34}", *(f"{found[name]:13.1%}" for name in names), flush=True)


def sizes(repetitions):
    print(f"Power of the ECE's 95 % interval at the size said for power .8, {repetitions} samples")
    rng = np.random.default_rng(8)
    for gap in (0.01, 0.02, 0.05):
        for name, draw in (
            ("all .9", lambda n: np.full(n, 0.9)),
            ("beta(8, 2)", lambda n: rng.beta(8, 2, n)),
        ):
            pilot = draw(5000)
            n = sample_size(gap, 0.9 if name == "all .9" else pilot)
            seen = 0
            for _ in range(repetitions):
                c = np.maximum(draw(n), 1e-3)
                hit = rng.random(n) < np.where(c >= gap, c - gap, c + gap)
                # the probability of "hit" alone is judged: the other class would be the top one below 1/2
                seen += ece(hit.astype(int), c, of_class=1).low > 0
            print(
                f"gap {gap:.2f}, confidence {name:10}: n = {n:7,}, seen in {seen / repetitions:.1%}",
                flush=True,
            )


#: Classes, spread, temperature of the truth; temperatures of a and b, and noise in b's logits.
PAIRS = (
    (10, 3, 1, 1, 1, 0.3), (10, 3, 1, 1, 1.3, 0), (10, 3, 1, 1.3, 0.75, 0), (10, 3, 2, 1, 1.3, 0),
    (10, 3, 2, 1, 2, 0.3), (2, 2, 1.5, 1, 1.5, 0), (10, 3, 1.5, 1, 1, 0.3),
)  # fmt: skip


def truths(p, q):
    """Return a model's true scores, from the true probabilities."""
    m, k = p.shape
    top, edges = p.argmax(axis=1), equal_width_edges(15)
    confidence, hit = p[np.arange(m), top], q[np.arange(m), top]
    cells = find_bin(p, edges) + 15 * np.arange(k)
    return {
        "nll": -(q * np.log(p + 1e-30)).sum(axis=1).mean(),
        "brier": (p**2 - 2 * p * q + q).sum(axis=1).mean(),
        "accuracy": hit.mean(),
        "ece": np.abs(np.bincount(find_bin(confidence, edges), confidence - hit, 15)).sum() / m,
        "classwise_ece": np.abs(np.bincount(cells.ravel(), (p - q).ravel())).sum() / m / k,
    }


def comparisons(repetitions):
    error = (0.95 * 0.05 / repetitions) ** 0.5
    print(f"{repetitions} samples (standard error {error:.1%}): true difference, covered, p < .05")
    print("a, b: log p over these temperatures; noise: sd of what is added to b's; truth: log p over T")
    for n in (500, 10_000):
        for seed, (k, spread, temperature, ta, tb, noise) in enumerate(PAIRS):
            population = Population(Scenario(k, spread, temperature, 0, n))
            rng = np.random.default_rng([5, seed])
            logs = np.log(population.p + 1e-30)
            a, b = softmax(logs / ta), softmax((logs + noise * rng.normal(size=logs.shape)) / tb)
            true = {
                name: value - truths(a, population.q)[name] for name, value in truths(b, population.q).items()
            }
            counts = {name: [0, 0] for name in true}
            for _ in range(repetitions):
                rows, y = population.sample(rng, n)
                for name, one in compare(y, a[rows], b[rows]).items():
                    d = one.difference
                    counts[name][0] += d.low <= true[name] + 1e-12 and d.high >= true[name] - 1e-12
                    counts[name][1] += one.p_value < LEVEL
            cells = (
                f"{name} {true[name]:+.4f} {c / repetitions:.0%} {r / repetitions:.0%}"
                for name, (c, r) in counts.items()
            )
            print(f"K={k} T={temperature} a={ta} b={tb} noise={noise} n={n}:", "; ".join(cells), flush=True)


if __name__ == "__main__":
    given = int(sys.argv[2]) if len(sys.argv) > 2 else 500
    {"tests": tests, "sizes": sizes, "comparisons": comparisons}[sys.argv[1]](given)
