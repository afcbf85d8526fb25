"""Predictions that the tests of judging share, and metrics written as on paper: slow, plain, independent."""

from pathlib import Path

import numpy as np

from focalcal import Estimate
from focalcal.verdicts.comparison import Comparison, Difference

DATA = Path(__file__).parents[2] / "shared" / "data"


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def compared(pair, ece, nll=None):
    """A comparison of two evaluations with given differences."""
    first, last = pair.values()
    given = {"ece": ece, "nll": nll or Estimate(-0.2, 0.01, -0.22, -0.18, first.n, "paired")}
    found = {name: Difference(first[name], last[name], d, 0.01) for name, d in given.items()}
    return Comparison(found, first.n, tuple(pair))


def draw(n, k, seed=0, temperature=1.5):
    """Logits of an over-confident model of k classes, and labels."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, k)) * 2
    z[np.arange(n), rng.integers(0, k, n)] += 2
    y = (rng.random((n, 1)) > softmax(z / temperature).cumsum(axis=1)[:, :-1]).sum(axis=1)
    return z, y


def dyadic(p, parts):
    """Round probabilities to multiples of 1/parts, a power of two, that exactly sum to 1; none is 0."""
    rounded = (np.floor(p * (parts - p.shape[1])) + 1) / parts
    rounded[:, 0] += 1 - rounded.sum(axis=1)
    return rounded


def textbook_ece(confidence, hit, weight=None, edges=None):
    """Σ_b share_b |mean confidence − hit rate| over bins (l, u], row by row."""
    edges = [j / 15 for j in range(16)] if edges is None else list(edges)
    weight = np.ones(len(confidence)) if weight is None else weight
    gaps = [0.0] * (len(edges) - 1)
    for c, h, w in zip(confidence, hit, weight, strict=True):
        b = next((b for b in range(len(gaps)) if c <= edges[b + 1]), len(gaps) - 1)
        gaps[b] += float(w) * (float(c) - float(h))
    return sum(map(abs, gaps)) / float(np.sum(weight))


def textbook_top(p):
    return p.max(axis=1), p.argmax(axis=1)


def textbook_classwise(p, y, weight=None):
    return np.mean([textbook_ece(p[:, k], y == k, weight) for k in range(p.shape[1])])
