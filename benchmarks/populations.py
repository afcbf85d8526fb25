"""Models whose true probabilities are known, for simulations.

Each scenario has a population of softmax rows p with true probabilities q: q = p (calibrated), q = softmax(log p
/ T) (over-confident for T > 1, under-confident for T < 1), or q shifted by class. Samples are drawn from it,
labels from q. The truth of a binned error is the population's over the sample's own bins.
"""

from dataclasses import dataclass

import numpy as np

from focalcal.bins import equal_width_edges, find_bin


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
        self.confidence, hits = self.p[np.arange(m), top], self.q[np.arange(m), top]
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

    def sample(self, rng, n):
        """Draw rows and labels."""
        rows = rng.integers(0, len(self.p), n)
        y = np.minimum((rng.random((n, 1)) > self.cumulative[rows]).sum(axis=1), self.p.shape[1] - 1)
        return rows, y
