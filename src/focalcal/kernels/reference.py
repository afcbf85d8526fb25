r"""Rows of logits to the focal calibration map's values and exact derivatives in (log T, γ), in NumPy.

A row is split into its top class and the rest. With :math:`u_j = (z_j - z_{(2)})/T` (second largest
logit), :math:`g = (z_{(1)} - z_{(2)})/T` and :math:`\hat S = \sum_{j \ne m} e^{u_j}`,

.. math:: \log S = \log\hat S - g, \quad \log q_m = -\log(1+S), \quad \log(1-q_m) = \log S - \log(1+S)

are exact however confident the row is. Every other class has :math:`q_j \le 1/2`, so that its
:math:`1-q_j` is well conditioned and float32 suffices; all that belongs to the top class, to the label
and to sums over rows is float64.

Derivatives are in :math:`\tau = \log T` and :math:`\gamma`; pairs are ordered (τ, γ), triples (ττ, τγ, γγ).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Vector = NDArray[np.float64]

#: exp of this is 0 in float64: classes further below the second one than this weigh nothing.
_LOWEST = -1000.0

#: Below this many classes a block is stored one class a row: sums over classes then run over long rows.
_CLASS_MAJOR = 32

#: Keeps the sum over an empty rest from being 0; its square is a float64 too.
_TINY = 1e-150


@dataclass(frozen=True)
class Rows:
    """A block of b rows, split into the top class and the rest."""

    rest: Floats  # (b, K), or (K, b) for few classes: z - second largest; the top class and masked ones -inf
    axis: int  # the axis of `rest` that runs over classes
    gap: Vector  # (b,) largest minus second largest logit
    label: Vector  # (b,) rest of the label's class; 0 where the label is on top
    hit: NDArray[np.bool_]  # (b,) the label's logit is the largest (ties count)
    weight: Vector | None  # (b,)

    def spread(self, values: Vector) -> Floats:
        """Lay a value a row out against `rest`, in its dtype."""
        cast = values.astype(self.rest.dtype)
        return cast[:, None] if self.axis == 1 else cast

    def total(self, a: Floats, b: Floats | None = None) -> Vector:
        """Sum a, or a·b, over the classes of each row."""
        if b is None:
            return np.asarray(a.sum(axis=self.axis), np.float64)
        return np.asarray(np.einsum("ij,ij->i" if self.axis == 1 else "ij,ij->j", a, b), np.float64)


def split_rows(logits: Floats, codes: NDArray[np.intp], weight: Vector | None = None) -> Rows:
    """Split logits (b, K) with column numbers of the labels (b,) into top class and rest."""
    n, n_classes = logits.shape
    every = np.arange(n)
    of_label = logits[every, codes].astype(np.float64)
    if n_classes < _CLASS_MAJOR:
        rest, axis = logits.T.copy(), 0
        first, second = _two_largest(rest)
        on_top = rest == first
        if (first == second).any():  # ties: only one of the equals is the top
            on_top &= np.cumsum(on_top, axis=0) == 1
        rest -= second
        np.copyto(rest, -np.inf, where=on_top)
    else:
        rest, axis = logits.copy(), 1
        top = rest.argmax(axis=1)
        first = rest[every, top]
        rest[every, top] = -np.inf
        second = rest.max(axis=1)
        # a row with a single unmasked class: any finite second, far away
        second = np.where(np.isneginf(second), -1e30, second).astype(rest.dtype)
        rest -= second[:, None]
    wide = second.astype(np.float64)
    hit = of_label == first
    return Rows(rest, axis, first.astype(np.float64) - wide, np.where(hit, 0.0, of_label - wide), hit, weight)


def _two_largest(columns: Floats) -> tuple[Floats, Floats]:
    first, second = columns[0].copy(), np.full_like(columns[0], -np.inf)
    for column in columns[1:]:
        np.maximum(second, np.minimum(first, column), out=second)
        np.maximum(first, column, out=first)
    return first, np.where(np.isneginf(second), columns.dtype.type(-1e30), second)


class Softmax(NamedTuple):
    """The tempered softmax of a block: what every map and loss starts from."""

    u: Floats  # as rest: scaled, clipped at `_LOWEST`
    e: Floats  # as rest: exp(u), 0 for the top class
    gap: Vector  # (b,) scaled
    size: Vector  # (b,) Ŝ, the sum of e
    odds: Vector  # (b,) S, odds against the top class
    log_odds: Vector  # (b,) log S
    log_q: Vector  # (b,) log-probability of the top class, -log1p(S)
    far: Vector  # (b,) κ, mean distance of the rest below the top
    far2: Vector  # (b,) mean squared distance


def softmax(rows: Rows, log_temperature: float) -> Softmax:
    """Return softmax(z / T) split into top class and rest, with the rest's first two moments."""
    scale = np.exp(-log_temperature)
    u = rows.rest * rows.rest.dtype.type(scale)
    np.maximum(u, np.full(u.shape[1], _LOWEST, u.dtype), out=u)  # a row of them: a scalar would be slower
    e = np.exp(u)
    size = np.maximum(rows.total(e), _TINY)
    weighted = e * u
    mean = rows.total(weighted) / size
    square = rows.total(weighted, u) / size
    gap = rows.gap * scale
    log_odds = np.log(size) - gap
    far2 = gap * gap - 2 * gap * mean + square
    odds = np.exp(log_odds)
    return Softmax(u, e, gap, size, odds, log_odds, -np.log1p(odds), gap - mean, far2)


class Terms(NamedTuple):
    """log h_γ of one class: factor and derivatives; h = q · factor."""

    factor: Any
    first: tuple[Any, Any]
    second: tuple[Any, Any, Any]


def rest_terms(q: Any, log_q: Any, shift: Any, variance: Any, gamma: float) -> Terms:
    r"""Return the derivatives of log h for classes that are not the top one (q ≤ 1/2).

    `shift` is :math:`\partial\ell/\partial\tau`, `variance` the variance of the scaled logits, so that
    :math:`\partial^2\ell/\partial\tau^2 = -` shift :math:`-` variance.
    """
    v = 1 - q
    log_v = np.log(v)
    ql = q * log_q
    gql = gamma * ql
    inverse = 1 / (v - gql)
    a = ((1 + gamma) * q + gql) * inverse
    b = ql * inverse
    odds = q / v
    qi = q * inverse
    spare = (gamma - 1) * odds
    slope = spare + a + 1
    bend = spare / v + a + gamma * qi + a * a
    mixed = odds + qi + b + a * b
    by_tau = slope * shift
    by_gamma = b - log_v
    return Terms(
        np.exp((1 - gamma) * log_v) * inverse,
        (by_tau, by_gamma),
        (bend * shift * shift - slope * (shift + variance), mixed * shift, b * b),
    )


def top_ratio(odds: Vector, log_odds: Vector, log_q: Vector, gamma: float) -> tuple[Vector, Vector]:
    r"""Return :math:`-q\log q/(1-q)` and the logarithm of :math:`1-\gamma q\log q/(1-q)` of the top class.

    The latter is x + (1+γ)(1−x) with x = 1 + q log q/(1−q): both terms are positive for every γ ≥ −1, so
    that nothing cancels, down to γ = −1 where only x is left.
    """
    small = odds < 0.01
    series = 1 / 9 - odds * 0.1  # x = S (1/2 - S/3 + S²/4 - …)
    for k in range(8, 1, -1):
        series = 1 / k - odds * series
    x = np.where(small, odds * series, 1 + log_q / np.where(small, 1.0, odds))
    if gamma > -1:
        return 1 - x, np.log(x + (1 + gamma) * (1 - x))
    return 1 - x, np.where(
        small, log_odds + np.log(np.where(small, series, 1.0)), np.log(np.where(small, 1.0, x))
    )


class Top(NamedTuple):
    """log h of the top class and its derivatives."""

    value: Vector
    first: tuple[Vector, Vector]
    second: tuple[Vector, Vector, Vector]
    less: tuple[Vector, Vector, Vector]  # second - products of first, whose terms in 1/W² cancel


def top_terms(soft: Softmax, gamma: float) -> Top:
    """Return log h of the top class and its derivatives; finite however small 1 - q is."""
    q, v = 1 / (1 + soft.odds), soft.odds / (1 + soft.odds)
    log_q = soft.log_q
    log_v = soft.log_odds + log_q
    ratio, log_w = top_ratio(soft.odds, soft.log_odds, log_q, gamma)
    inverse = np.exp(np.minimum(-log_w, 300.0))  # 1/W; without end as gamma nears -1 and q nears 1
    a = (1 + gamma) * q * inverse - gamma * ratio * (v * inverse if gamma > -1 else np.exp(log_v - log_w))
    b = -ratio * inverse
    slope = v + q * (gamma - 1) + a  # (1-q) ∂log h/∂log q
    bend = (gamma - 1) * q + v * (a + gamma * q * inverse) + a * a  # (1-q)² ∂²
    own = q + q * (1 + log_q) * inverse
    mixed = own + a * b  # (1-q) ∂²/∂log q ∂γ
    far, far2 = soft.far, soft.far2
    first = (-slope * far, b - log_v)
    second = (bend * far * far + slope * (far - far2 + v * far * far), -far * mixed, b * b)
    less = (
        second[0] - first[0] * first[0],
        -far * (own - (slope - a) * b + slope * log_v),
        log_v * (2 * b - log_v),
    )
    return Top(log_q - gamma * log_v - log_w, first, second, less)


class Jet(NamedTuple):
    """A value a row with its exact derivatives in (τ, γ)."""

    value: Vector  # (b,)
    first: tuple[Vector, Vector]  # τ, γ
    second: tuple[Vector, Vector, Vector]  # ττ, τγ, γγ


#: The pairs of parameters behind the entries of `second`.
_PAIRS = ((0, 0), (0, 1), (1, 1))


class _Mapped(NamedTuple):
    """p = φ_γ(softmax(z / T)): the top class against the rest, and the rest's sums relative to its own."""

    p_top: Vector
    p_rest: Vector
    top: Top
    rest1: list[Vector]  # means of ∂a over the rest
    rest2: list[Vector]  # means of ∂a ∂b + ∂ab
    label: Jet  # log p of the label
    weight: Floats  # h of the rest, relative
    total: Vector  # its sum
    terms: Terms  # derivatives of the rest, class by class


def nll_jet(rows: Rows, log_temperature: float, gamma: float) -> Jet:
    """Return -log p of the label under φ_γ(softmax(z / T))."""
    label = _mapped(rows, log_temperature, gamma).label
    return Jet(-label.value, _negated(label.first), _negated(label.second))


def brier_jet(rows: Rows, log_temperature: float, gamma: float) -> Jet:
    """Return the Brier score, the sum over classes of (p - y)², under φ_γ(softmax(z / T))."""
    m = _mapped(rows, log_temperature, gamma)
    top2, rest2 = m.p_top**2, m.p_rest**2
    weight2, total2 = m.weight * m.weight, m.total**2
    first, second = m.terms.first, m.terms.second
    square = top2 + rest2 * rows.total(weight2) / total2  # Σ p²
    square1 = [
        top2 * t + rest2 * rows.total(weight2, d) / total2 for t, d in zip(m.top.first, first, strict=True)
    ]
    mean1 = [m.p_top * t + m.p_rest * r for t, r in zip(m.top.first, m.rest1, strict=True)]
    p = np.exp(m.label.value)
    one, two = [], []
    for i in range(2):
        one.append(2 * (square1[i] - square * mean1[i]) - 2 * p * m.label.first[i])
    for k, (i, j) in enumerate(_PAIRS):
        of_top = 2 * m.top.first[i] * m.top.first[j] + m.top.second[k]
        of_rest = rows.total(weight2, 2 * first[i] * first[j] + second[k]) / total2
        mean2 = m.p_top * (of_top - m.top.first[i] * m.top.first[j]) + m.p_rest * m.rest2[k]
        cross = square1[i] * mean1[j] + square1[j] * mean1[i]
        squares = 2 * (top2 * of_top + rest2 * of_rest) - 4 * cross
        squares += square * (6 * mean1[i] * mean1[j] - 2 * mean2)
        bend = m.label.first[i] * m.label.first[j] + m.label.second[k]
        two.append(squares - 2 * p * bend)
    return Jet(square - 2 * p + 1, (one[0], one[1]), (two[0], two[1], two[2]))


def temperature_jet(rows: Rows, log_temperature: float) -> Jet:
    """Return -log p of the label under softmax(z / T); the derivatives in γ are left at 0."""
    soft = softmax(rows, log_temperature)
    v = soft.odds / (1 + soft.odds)
    label = np.where(rows.hit, 0.0, rows.label * np.exp(-log_temperature) - soft.gap)  # below the top
    mean = v * soft.far
    zero = np.zeros_like(v)
    slope = label + mean
    return Jet(-soft.log_q - label, (slope, zero), (v * soft.far2 - mean * mean - slope, zero, zero))


def mapped_odds(
    rows: Rows, soft: Softmax, gammas: Sequence[float]
) -> Iterator[tuple[Floats, Vector, Vector]]:
    """Yield, for each γ, h of the rest (as `rest`, relative), its sums, and log odds against the top."""
    offset = soft.log_q - soft.gap
    q = soft.e * rows.spread(np.exp(offset))
    v = 1 - q
    log_v, ql = np.log(v), q * (soft.u + rows.spread(offset))
    for gamma in gammas:
        weight = np.exp((1 - gamma) * log_v)
        weight *= soft.e
        weight /= v - gamma * ql
        total = np.maximum(rows.total(weight), _TINY)
        log_w = top_ratio(soft.odds, soft.log_odds, soft.log_q, gamma)[1]
        log_top = soft.log_q - gamma * (soft.log_odds + soft.log_q) - log_w
        yield weight, total, np.log(total) + offset - log_top


def top_probability(rows: Rows, log_temperature: float, gammas: Sequence[float]) -> Vector:
    """Return the largest probability of φ_γ(softmax(z / T)) for each γ, shape (len(gammas), b)."""
    found = mapped_odds(rows, softmax(rows, log_temperature), gammas)
    return np.stack([1 / (1 + np.exp(log_odds)) for _, _, log_odds in found])


def _mapped(rows: Rows, log_temperature: float, gamma: float) -> _Mapped:
    soft = softmax(rows, log_temperature)
    top = top_terms(soft, gamma)
    v = soft.odds / (1 + soft.odds)
    variance = np.maximum(v * soft.far2 - (v * soft.far) ** 2, 0)
    offset, centre = soft.log_q - soft.gap, soft.gap - v * soft.far
    q = soft.e * rows.spread(np.exp(offset))
    log_q = soft.u + rows.spread(offset)
    # beyond 1e15 nats the rest weighs nothing; its terms must only stay finite in float32
    shift = rows.spread(np.minimum(centre, 1e15)) - soft.u
    terms = rest_terms(q, log_q, shift, rows.spread(variance), gamma)
    weight = soft.e * terms.factor
    total = np.maximum(rows.total(weight), _TINY)
    tau, gam = terms.first
    second = (tau * tau + terms.second[0], tau * gam + terms.second[1], gam * gam + terms.second[2])
    rest1 = [rows.total(weight, d) / total for d in terms.first]
    rest2 = [rows.total(weight, d) / total for d in second]
    log_against = np.log(total) + offset - top.value
    against = np.exp(log_against)  # odds against the top class after the map: at most K - 1
    value, p_top = -np.log1p(against), 1 / (1 + against)
    p_rest = against * p_top
    label = _top_jet(value, p_rest, top, rest1, rest2)
    miss = np.flatnonzero(~rows.hit)
    if len(miss):
        u = np.maximum(rows.label[miss] * np.exp(-log_temperature), _LOWEST)
        here = u + offset[miss]
        of_label = rest_terms(np.exp(here), here, centre[miss] - u, variance[miss], gamma)
        label.value[miss] = u + np.log(of_label.factor / total[miss]) + log_against[miss] + value[miss]
        one, other = p_top[miss], p_rest[miss]
        top1 = [d[miss] for d in top.first]
        mean = [one * t + other * r[miss] for t, r in zip(top1, rest1, strict=True)]
        for k in range(2):
            label.first[k][miss] = of_label.first[k] - mean[k]
        for k, (i, j) in enumerate(_PAIRS):
            mean2 = one * (top1[i] * top1[j] + top.second[k][miss]) + other * rest2[k][miss]
            label.second[k][miss] = of_label.second[k] - (mean2 - mean[i] * mean[j])
    return _Mapped(p_top, p_rest, top, rest1, rest2, label, weight, total, terms)


def _top_jet(log_p: Vector, p_rest: Vector, top: Top, rest1: list[Vector], rest2: list[Vector]) -> Jet:
    """Return log p of the top class, its derivatives written as multiples of 1 - p so that none cancels."""
    away = [r - t for r, t in zip(rest1, top.first, strict=True)]
    second = []
    for k, (i, j) in enumerate(_PAIRS):
        bend = top.less[k] + top.first[i] * rest1[j] + top.first[j] * rest1[i] - rest2[k]
        second.append(p_rest * (bend + p_rest * away[i] * away[j]))
    return Jet(log_p, (-p_rest * away[0], -p_rest * away[1]), (second[0], second[1], second[2]))


def _negated(derivatives: tuple[Vector, ...]) -> Any:
    return tuple(-d for d in derivatives)
