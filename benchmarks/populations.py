"""Models whose true probabilities are known, for simulations.

Each scenario has a population of softmax rows p with true probabilities q: q = p (calibrated), q = softmax(log p
/ T) (over-confident for T > 1, under-confident for T < 1), or q shifted by class. Samples are drawn from it,
labels from q. The truth of a binned error is the population's over the sample's own bins.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.optimize import isotonic_regression

from focalcal import inverse_focal_map
from focalcal.intervals.smoothing import error_exactly, find_width
from focalcal.sums.bins import equal_width_edges, find_bin


@dataclass(frozen=True)
class Scenario:
    """A kind of model, and how many rows are judged."""

    classes: int
    spread: float  # of the logits
    temperature: float
    shift: float = 0.0  # of the last class's logit against the first's
    n: int = 500

    def __str__(self):
        kind = "calibrated" if self.temperature == 1 and not self.shift else f"T={self.temperature}"
        return f"K={self.classes} {kind}{f' shift={self.shift}' if self.shift else ''} n={self.n}"


SCENARIOS = [
    Scenario(k, spread, temperature, shift, n)
    for k, spread, temperature, shift in (
        (2, 2, 1, 0), (2, 2, 1.2, 0), (2, 2, 2, 0),
        (10, 3, 1, 0), (10, 3, 1.1, 0), (10, 3, 2, 0), (10, 3, 0.8, 0), (10, 3, 1, 0.5),
        (100, 3, 1, 0), (100, 3, 1.5, 0),
    )
    for n in (500, 10_000)
]  # fmt: skip


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


class Population:
    """Rows whose true probabilities are known, and the metrics' true values."""

    def __init__(self, s):
        rng = np.random.default_rng(0)
        m = 400_000 if s.classes <= 10 else 60_000
        z = rng.normal(size=(m, s.classes)) * s.spread
        z[np.arange(m), rng.integers(0, s.classes, m)] += s.spread * np.sqrt(2 * np.log(s.classes))
        self.p = softmax(z)
        self.q = softmax(z / s.temperature + s.shift * np.linspace(0, 1, s.classes))
        self.cumulative = self.q.cumsum(axis=1)
        top = self.p.argmax(axis=1)
        self.confidence, self.hits = self.p[np.arange(m), top], self.q[np.arange(m), top]
        hits = self.hits
        order = np.argsort(self.confidence)
        self.sorted = self.confidence[order]
        self.gaps = np.concatenate([[0], np.cumsum((self.confidence - hits)[order])]) / m
        cells = find_bin(self.p, equal_width_edges(15)) + 15 * np.arange(s.classes)
        self.truth = {
            "nll": -(self.q * np.log(self.p)).sum(axis=1).mean(),
            "brier": (self.p**2 - 2 * self.p * self.q + self.q).sum(axis=1).mean(),
            "accuracy": hits.mean(),
            "ece": self.binned(equal_width_edges(15)),
            "classwise_ece": np.abs(np.bincount(cells.ravel(), (self.p - self.q).ravel())).sum()
            / m
            / s.classes,
        }

    def binned(self, edges):
        """Return the population's binned error over some edges."""
        at = np.searchsorted(self.sorted, edges[1:-1], side="right")
        return np.abs(np.diff(self.gaps[np.concatenate([[0], at, [len(self.sorted)]])])).sum()

    def rate_given_confidence(self):
        """Return E[hit | confidence] of each row: isotonic regression on the true chances, without noise."""
        order = np.argsort(self.confidence)
        rate = np.empty_like(self.hits)
        rate[order] = isotonic_regression(self.hits[order]).x
        return rate

    def sample(self, rng, n):
        """Draw rows and labels."""
        rows = rng.integers(0, len(self.p), n)
        y = np.minimum((rng.random((n, 1)) > self.cumulative[rows]).sum(axis=1), self.p.shape[1] - 1)
        return rows, y


@cache
def event_truths(population):
    """Return the population's errors of the top class without bins."""
    gaps, m = population.gaps, len(population.sorted)
    confidence, hits = population.confidence, population.hits
    one = np.ones(m)
    smooth = find_width(lambda width: error_exactly(confidence, confidence - hits, one, width))
    order = np.argsort(-confidence)
    risk = np.cumsum(1 - hits[order]) / np.arange(1, m + 1)
    # all shifts by temperature keep the order of the true rates, so isotonic regression finds them
    loss = hits * (1 - confidence) ** 2 + (1 - hits) * confidence**2
    rate = population.rate_given_confidence()
    best = hits * (1 - rate) ** 2 + (1 - hits) * rate**2
    return {
        "smooth_ece": float(error_exactly(confidence, confidence - hits, one, smooth)),
        "ks_error": float(np.abs(gaps).max()),
        "mean_gap": float(gaps[-1]),
        "aurc": float(risk.mean()),
        "isotonic": float((loss - best).mean()),
    }


def binned_truths(population, sampled):
    """Return the population's L2 error and largest gap over the bins that a sample occupies."""
    edges = equal_width_edges(15)
    place = find_bin(population.confidence, edges)
    share = np.bincount(place, minlength=15) / len(place)
    gap = np.bincount(place, population.confidence - population.hits, 15) / np.maximum(share * len(place), 1)
    occupied = np.unique(find_bin(sampled, edges))
    return {"ece_l2": float(np.sqrt(share @ gap**2)), "mce": float(np.abs(gap[occupied]).max())}


@cache
def kernel_truth(population):
    """Return the population's L1 error without bins, of the top class."""
    rate = population.rate_given_confidence()
    return {"kernel_ece": float(np.abs(population.confidence - rate).mean())}


@cache
def other_truths(population):
    """Return the population's top-label ECE over 15 bins, mean focal losses for γ = 2, and mean entropy."""
    p, q, m = population.p, population.q, len(population.p)
    cells = p.argmax(axis=1) * 15 + find_bin(population.confidence, equal_width_edges(15))
    gaps = np.bincount(cells, population.confidence - population.hits)
    logs = np.log(p)
    focal = -((1 - p) ** 2) * logs
    before = np.exp(inverse_focal_map(logs, 2.0))
    proper = -((1 - before) ** 2) * np.log(before)
    return {
        "top_label": np.abs(gaps).sum() / m,
        "focal": (q * focal).sum(axis=1).mean(),
        "proper_focal": (q * proper).sum(axis=1).mean(),
        "entropy": -(p * logs).sum(axis=1).mean(),
    }
