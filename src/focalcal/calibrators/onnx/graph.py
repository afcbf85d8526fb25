r"""Softmax, temperature and focal map as ONNX graphs: those of `focalcal.kernels.reference_map`.

The top class's :math:`1-q` is summed from the other classes, so that saturated rows are exact in float32 too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

#: Stands for −inf in the graph, so that 0 · log 0 is 0.
_MASKED = {"float32": -1e37, "float64": -1e200}

#: Terms of the series of artanh below odds of one, where its argument is at most a third.
_TERMS = {"float32": 7, "float64": 16}

DTYPES = tuple(_TERMS)


class Graph:
    """Nodes and constants of a graph under construction; calling it adds a node."""

    def __init__(self, helper: Any, numpy_helper: Any, dtype: str, n_classes: int) -> None:
        self.helper, self.numpy_helper = helper, numpy_helper
        self.dtype, self.n_classes = np.dtype(dtype), n_classes
        self.kind, self.index_kind = map(helper.np_dtype_to_tensor_dtype, (self.dtype, np.dtype(np.int64)))
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def __call__(self, op: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node; return the name of its first output."""
        name = output or f"focalcal/{op}_{len(self.nodes)}"
        outputs = [name, f"{name}/places"] if op == "TopK" else [name]  # which must be named
        self.nodes.append(self.helper.make_node(op, list(inputs), outputs, name=name, **attributes))
        return name

    def number(self, value: float) -> str:
        """Return the name of a number in the graph's precision."""
        return self.numbers(np.array(value))

    def numbers(self, values: Any) -> str:
        """Return the name of an array of numbers in the graph's precision."""
        return self.constant(np.asarray(values).astype(self.dtype))

    def masked(self) -> str:
        """Return the name of the number that stands for −inf."""
        return self.number(_MASKED[self.dtype.name])

    def constant(self, value: Any) -> str:
        """Return the name of a constant array."""
        name = f"focalcal/constant_{len(self.constants)}"
        self.constants.append(self.numpy_helper.from_array(value, name))
        return name


def focal_temperature(g: Graph, logits: str, temperature: float, gamma: float) -> str:
    """Add log φ_γ(softmax(z / T)) of logits (N, K)."""
    gaps, is_top = below_top(g, logits)
    below = g("Max", g("Div", gaps, g.number(temperature)), g.masked())
    log_q, log_top, log_odds = log_softmax(g, below, is_top)
    if gamma != 0:
        log_h = _log_h(g, log_q, gamma)
        # classes that tie with the top one stay tied
        on_top = g("GreaterOrEqual", below, g.number(0.0))
        log_h_top = _log_h_top(g, log_top, log_odds, gamma)
        log_q, _, _ = log_softmax(g, g("Where", on_top, g.number(0.0), g("Sub", log_h, log_h_top)), is_top)
    masked = g("IsInf", logits, detect_positive=0)
    return g("Where", masked, g.number(-np.inf), log_q)


def below_top(g: Graph, logits: str) -> tuple[str, str]:
    """Add logits less their row's largest, and where that is, both (N, K)."""
    top = g("ArgMax", logits, axis=1, keepdims=1)  # (N, 1), one of those that tie
    columns = g.constant(np.arange(g.n_classes, dtype=np.int64)[None])
    # before a division, which would round logits that are large beside their differences
    return g("Sub", logits, g("GatherElements", logits, top, axis=1)), g("Equal", columns, top)


def log_softmax(g: Graph, below: str, is_top: str) -> tuple[str, str, str]:
    """Add log q (N, K), log q of the top class (N, 1) and log S (N, 1), from logits less the top one's."""
    axes = g.constant(np.array([1], np.int64))
    rest = g("Where", is_top, g.masked(), below)
    second = g("GatherElements", rest, g("ArgMax", rest, axis=1, keepdims=1), axis=1)
    total = g("ReduceSum", g("Exp", g("Sub", rest, second)), axes, keepdims=1)
    log_odds = g("Add", second, g("Log", total))
    log_top = g("Neg", log1p(g, _odds(g, log_odds)))
    return g("Add", below, log_top), log_top, log_odds


def _odds(g: Graph, log_odds: str) -> str:
    """Add S, above 0 also where it underflows."""
    tiny = 1e-37 if g.dtype == np.float32 else 1e-300
    return g("Max", g("Exp", log_odds), g.number(tiny))


def log1p(g: Graph, x: str) -> str:
    """Add log(1 + x), x > 0, to the last digit: ONNX has no such operation, and log loses a small x."""
    one = g.number(1.0)
    u = g("Add", one, x)
    rounded = g("Sub", u, one)  # what log saw of x
    lost = g("Equal", rounded, g.number(0.0))
    ratio = g("Div", x, g("Where", lost, one, rounded))
    return g("Where", lost, x, g("Mul", g("Log", u), ratio))


def _log_h(g: Graph, log_q: str, gamma: float) -> str:
    """Add log h of classes with q of at most one half."""
    capped = g("Min", log_q, g.number(-np.log(2)))
    one, q = g.number(1.0), g("Exp", capped)
    rest = g("Sub", one, q)
    ratio = g("Div", g("Mul", q, capped), rest)
    weight = g("Log", g("Sub", one, g("Mul", g.number(gamma), ratio)))
    return g("Sub", g("Sub", capped, g("Mul", g.number(gamma), g("Log", rest))), weight)


def _log_h_top(g: Graph, log_top: str, log_odds: str, gamma: float) -> str:
    """Add log h of the top class (N, 1) from log S."""
    odds = _odds(g, log_odds)
    log_rest = g("Add", log_odds, log_top)
    lead = g("Sub", log_top, g("Mul", g.number(gamma), log_rest))
    if gamma > 0:
        ratio = g("Div", g("Neg", log_top), odds)
        return g("Sub", lead, g("Log", g("Add", g.number(1.0), g("Mul", g.number(gamma), ratio))))
    return g("Sub", lead, _log_weight(g, log_top, log_odds, odds, gamma))


def _log_weight(g: Graph, log_top: str, log_odds: str, odds: str, gamma: float) -> str:
    r"""Add log(1 + γρ) for γ < 0, ρ = log(1+S)/S, as the log of x + (1+γ)(1−x), x = 1 − ρ: nothing cancels.

    With t = S/(2+S), log(1+S) = 2 artanh t, so that x = t (1 − (1−t) t A), A = 1/3 + t²/5 + t⁴/7 + …
    """
    one = g.number(1.0)
    small = g("Less", odds, one)
    above = g("Add", g.number(2.0), odds)
    t = g("Where", small, g("Div", odds, above), g.number(0.0))
    square = g("Mul", t, t)
    terms = _TERMS[g.dtype.name]
    series = g.number(1 / (2 * terms + 3))
    for k in range(terms - 1, -1, -1):
        series = g("Add", g.number(1 / (2 * k + 3)), g("Mul", square, series))
    bend = g("Sub", one, g("Mul", g("Mul", g("Sub", one, t), t), series))
    far = g("Add", one, g("Div", log_top, odds))
    if gamma > -1:
        x = g("Where", small, g("Mul", t, bend), far)
        return g("Log", g("Add", x, g("Mul", g.number(1 + gamma), g("Sub", one, x))))
    # only x is left, which underflows before its logarithm does
    near = g("Add", g("Sub", log_odds, g("Log", above)), g("Log", bend))
    return g("Where", small, near, g("Log", g("Where", small, one, far)))
