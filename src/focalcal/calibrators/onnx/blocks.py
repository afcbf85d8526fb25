"""What the graphs of several families are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from focalcal.calibrators.onnx.graph import Graph, below_top, focal_temperature, log1p, log_softmax

Array = NDArray[np.float64]

#: The largest |log-odds|; those from which `columns.log_rest` sums what masked classes are filled with.
_LARGEST, _SURE = 1e30, -np.log(1e-30)


def normalised(g: Graph, scores: str, logits: str) -> str:
    """Add log softmax of scores (N, K), with −inf where the logits have it."""
    return focal_temperature(g, g("Where", is_masked(g, logits), g.number(-np.inf), scores), 1.0, 0.0)


def is_masked(g: Graph, logits: str) -> str:
    """Add where a class cannot occur."""
    return g("IsInf", logits, detect_positive=0)


def filled(g: Graph, scores: str, logits: str) -> str:
    """Add scores that are the lowest of the row's others where the logits are −inf."""
    masked = is_masked(g, logits)
    others = g("Neg", g("Where", masked, g.number(np.inf), scores))
    lowest = g("GatherElements", scores, g("ArgMax", others, axis=1, keepdims=1), axis=1)
    return g("Where", masked, lowest, scores)


def scaled(g: Graph, logits: str, temperature: float = 1.0) -> str:
    """Add log softmax(z / T), with −inf where the logits have it."""
    return focal_temperature(g, logits, temperature, 0.0)


def affine(g: Graph, scores: str, weight: Array, bias: Array) -> str:
    """Add scores times a matrix (K, K), or times a number for each class (K,), plus a bias."""
    op = "MatMul" if weight.ndim == 2 else "Mul"
    return g("Add", g(op, scores, g.numbers(weight)), g.numbers(bias))


def mixture(g: Graph, parts: Sequence[tuple[str, float]]) -> str:
    """Add the logarithm of a weighted sum, from the logarithms of its parts; a weight may be 0."""
    logs = [g("Add", part, g.number(np.log(weight))) for part, weight in parts if weight > 0]
    total = g("Max", logs[0], g.masked())
    for other in logs[1:]:
        high, low = g("Max", total, other), g("Max", g("Min", total, other), g.masked())
        total = g("Add", high, log1p(g, g("Exp", g("Sub", low, high))))
    return total


def log_uniform(g: Graph, logits: str) -> str:
    """Add log-probabilities (N, K) that are equal for all classes that can occur."""
    masked = is_masked(g, logits)
    possible = row_sums(g, g("Cast", g("Not", masked), to=g.kind))
    return g("Where", masked, g.number(-np.inf), g("Neg", g("Log", possible)))


def row_sums(g: Graph, values: str) -> str:
    """Add the sums of rows (N, K), shape (N, 1)."""
    return g("ReduceSum", values, g.constant(np.array([1], np.int64)), keepdims=1)


def softplus(g: Graph, x: str) -> str:
    """Add log(1 + exp x)."""
    return g("Add", g("Max", x, g.number(0.0)), log1p(g, g("Exp", g("Neg", g("Abs", x)))))


def log_odds(g: Graph, logits: str) -> str:
    """Add log p/(1−p) of each class against the rest (N, K), or of the second of two (N, 1)."""
    given = filled(g, logits, logits)
    if g.n_classes == 2:
        return second_log_odds(g, given)
    _, of_top = top_log_odds(g, logits)
    is_top, of_top_filled = top_log_odds(g, given)
    of_top = g("Where", g("Greater", of_top, g.number(_SURE)), of_top_filled, of_top)
    # all but the top class have a probability of at most one half
    log_p = g("Min", filled(g, scaled(g, logits), logits), g.number(-np.log(2)))
    rest = g("Log", g("Sub", g.number(1.0), g("Exp", log_p)))
    return g("Where", is_top, of_top, g("Sub", log_p, rest))


def second_log_odds(g: Graph, logits: str) -> str:
    """Add the log-odds (N, 1) of the second of two classes."""
    gaps, _ = below_top(g, logits)
    return g("MatMul", g("Max", gaps, g.number(-_LARGEST)), g.numbers(np.array([[-1.0], [1.0]])))


def top_log_odds(g: Graph, logits: str) -> tuple[str, str]:
    """Add where the top class is (N, K), and its log-odds (N, 1) against the others that can occur."""
    gaps, is_top = below_top(g, logits)
    _, _, against = log_softmax(g, g("Max", gaps, g.masked()), is_top)
    return is_top, g("Neg", g("Max", against, g.number(-_LARGEST)))


def joined(g: Graph, odds: str) -> str:
    """Add logarithms (N, K), not normalised, of the log-odds of K classes, or of the second of two."""
    if g.n_classes == 2:
        return g("Mul", odds, g.numbers(np.array([[0.0, 1.0]])))
    return g("Neg", softplus(g, g("Neg", odds)))


def piecewise(
    g: Graph,
    scores: str,
    borders: Array,
    anchors: Array,
    coefficients: Sequence[Array],
    *,
    closed: str = "left",
) -> str:
    """Add polynomials by pieces of the scores (N, C).

    Parameters
    ----------
    borders : array of shape (C or 1, M − 1)
        Ascending; +inf where a row has fewer pieces.
    anchors : array of shape (C or 1, M)
        What is subtracted from a score on each piece.
    coefficients : sequence of arrays of shape (C or 1, M)
        From the highest power down.
    closed : {"left", "right"}
        Which of its borders belongs to a piece.
    """
    count, pieces = anchors.shape
    last = g.constant(np.array([2], np.int64))
    above = g(
        "GreaterOrEqual" if closed == "left" else "Greater",
        g("Unsqueeze", scores, last),
        g.numbers(borders[None]),
    )  # (N, C, M − 1)
    piece = g("ReduceSum", g("Cast", above, to=g.index_kind), last, keepdims=0)
    place = g("Add", piece, g.constant(pieces * np.arange(count, dtype=np.int64)[None]))
    beyond = g("Sub", scores, g("Gather", g.numbers(anchors.ravel()), place))
    total, *others = (g("Gather", g.numbers(one.ravel()), place) for one in coefficients)
    for one in others:
        total = g("Add", g("Mul", total, beyond), one)
    return total
