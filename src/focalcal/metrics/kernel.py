"""Kernel ECE: the calibration error of the whole vector of probabilities, by a Dirichlet kernel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from focalcal._settings import (
    check_bandwidth,
    check_choice,
    check_count,
    check_level,
    check_neighbours,
    check_top_class,
)
from focalcal._validate import PROBABILITY_FLOOR
from focalcal.intervals.estimate import Estimate
from focalcal.intervals.inversion import Inverted, Moments, invert
from focalcal.rows import ArrayRows, Block, Rows
from focalcal.sums.bins import Array
from focalcal.sums.events import chance_of, find_column
from focalcal.sums.judging import prepare
from focalcal.sums.scoring import score_block

#: Candidates for the bandwidth, and the rows on which one is chosen.
_BANDWIDTHS = np.geomspace(1e-4, 1.0, 17)
_CHOSEN_ON = 1000

#: Numbers of a block of the kernel's matrix (16 MB), and of one batch of drawn labels (128 MB).
_BLOCK, _DRAWN = 1 << 21, 1 << 25

#: Where on the line of candidate truths labels are drawn (1: calibrated, 0: as estimated), and how often.
_POSITIONS, _DRAWS = (1.0, 0.5, 0.0, -1.0), 16


def kernel_ece(
    y_true: Any,
    y_prob: Any = None,
    sample_weight: Any = None,
    *,
    input: str = "probs",
    classes: Any = None,
    ignore_index: int | None = None,
    of: str = "vector",
    of_class: Any = None,
    norm: str = "l1",
    bandwidth: float | None = None,
    max_rows: int = 5000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    r"""Compute the kernel estimate of the canonical calibration error.

    Parameters
    ----------
    y_true, y_prob, sample_weight, input, classes, ignore_index, level
        As in `focalcal.evaluate`.
    of : {"vector", "top"}
        The whole vector of probabilities (canonical calibration), or the top class's confidence.
    of_class : label, optional
        One class's probability instead.
    norm : {"l1", "l2"}
        Mean of Σ_k |gap_k|, or the root of the mean of Σ_k gap_k² (the paper reports its square).
    bandwidth : float, optional
        h; by default the one with the largest leave-one-out likelihood of the probabilities.
    max_rows : int
        Beyond, as many rows, spread evenly in small runs, are used: time grows with rows² K.
    seed : int
        Of the draws behind the interval.

    Returns
    -------
    Estimate
        The plug-in value; biased upward, more so with many classes. `n` is the rows used.

    Notes
    -----
    :math:`\frac1n \sum_j \lVert \frac{\sum_{i \ne j} k(p_j; p_i)\, e_{y_i}}{\sum_{i \ne j} k(p_j; p_i)} - p_j
    \rVert` with k(·; p_i) the density of the Dirichlet distribution with parameters p_i/h + 1. Probabilities
    are floored at 1e-30. Two columns are a vector of two: twice the error of one class's probability in L1.

    The interval inverts a test along the line between the estimated truth and the predictions; the
    distribution is drawn at four points of it and interpolated. It takes rows as independent, also the pixels
    of an image. It is *approximate*: 95 % ones of the top class's error covered in 88 to 98 % at 500 rows
    (60 samples a case, ``benchmarks/results/interval_coverage.txt``).

    References
    ----------
    Popordanoska, Sayer and Blaschko 2022, arXiv:2210.07810.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.arange(400) % 2
    >>> round(kernel_ece(y, np.full(400, 0.9), of_class=1).value, 2)
    0.4
    """
    check_choice("of", of, ("vector", "top"))
    check_choice("norm", norm, ("l1", "l2"))
    if of == "top":
        check_top_class(of_class)
    level, max_rows = check_level(level), check_count("max_rows", max_rows)
    width = None if bandwidth is None else check_bandwidth(bandwidth)
    rows, found = prepare(y_true, y_prob, sample_weight, input, classes, ignore_index=ignore_index)
    column = None if of_class is None else find_column(of_class, found)
    p, hot, weight = _points(_held(rows, max_rows), of, column)
    check_neighbours(int((weight > 0).sum()))
    kernel = DirichletKernel(p, weight, _bandwidth(p) if width is None else width)
    smoothed = kernel.smooth(hot)
    power, one = (1 if norm == "l1" else 2), column is not None or of == "top"
    distance = _Distance(p, weight / weight.sum(), power, one)
    value = distance(smoothed)
    inverted = _interval(kernel, p, smoothed, distance, value, level, seed)
    method = f"inverted test, {len(_POSITIONS) * _DRAWS} draws, seed {seed}, h={kernel.width:.3g}"
    return Estimate(value, inverted.stderr, inverted.low, inverted.high, len(p), method, level)


def _held(rows: Rows, most: int) -> ArrayRows:
    """Return at most about so many rows in memory."""
    held = (rows.sample(most) if rows.n > most else None) or rows.in_memory()
    if held.n <= most:
        return held
    index = np.linspace(0, held.n - 1, most).astype(np.int64)
    weight = None if held.weight is None else held.weight[index]
    return ArrayRows(held.scores[index], held.codes[index], weight, held.kind)


def _points(rows: ArrayRows, of: str, column: int | None) -> tuple[Array, Array, Array]:
    """Return probabilities (n, C), what happened (n, C) as 0 and 1, and weights (n,)."""
    block = Block(rows.scores, rows.codes, None)
    scored = score_block(block, rows.kind)
    p = scored.probs.astype(np.float64)
    weight = np.ones(len(p)) if rows.weight is None else rows.weight
    if column is None and of == "vector":
        return p, rows.codes if rows.codes.ndim == 2 else np.eye(p.shape[1])[rows.codes], weight
    own = scored.confidence.astype(np.float64) if column is None else p[:, column]
    hit = np.asarray(scored.hit if column is None else chance_of(block, column), np.float64)
    return np.stack([own, 1 - own], axis=1), np.stack([hit, 1 - hit], axis=1), weight


@dataclass(frozen=True)
class _Distance:
    """The norm of the gaps between smoothed outcomes (n, C) and probabilities."""

    p: Array
    share: Array
    power: int
    one: bool  # only the first of two mirrored columns counts

    def __call__(self, smoothed: Array) -> float:
        gaps = np.abs(smoothed - self.p)[:, : 1 if self.one else None]
        mean = float(self.share @ (gaps**self.power).sum(axis=1))
        return float(mean ** (1 / self.power))


@dataclass(frozen=True)
class DirichletKernel:
    """Leave-one-out weights of rows for each other: the matrix is made block by block, never held."""

    p: Array  # (n, C)
    weight: Array  # (n,)
    width: float

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Yield rows and their logarithmic kernels (b, n), the row itself at −inf."""
        n = len(self.p)
        own, log_p = self.p / self.width, np.log(np.maximum(self.p, PROBABILITY_FLOOR))
        norm = gammaln((own + 1).sum(axis=1)) - gammaln(own + 1).sum(axis=1)
        with np.errstate(divide="ignore"):
            norm = norm + np.log(self.weight)
        step = max(1, _BLOCK // n)
        for first in range(0, n, step):
            rows = slice(first, min(first + step, n))
            logs = log_p[rows] @ own.T
            logs += norm
            here = np.arange(rows.start, rows.stop)
            logs[here - first, here] = -np.inf
            yield rows, logs

    def smooth(self, outcomes: NDArray[Any]) -> Array:
        """Return the weighted means of the other rows' outcomes (n, M), in their precision."""
        smoothed = np.empty(outcomes.shape)
        for rows, logs in self.blocks():
            logs -= np.maximum(logs.max(axis=1), -1e300)[:, None]
            kernel = np.exp(logs, out=logs)
            total = kernel.sum(axis=1)[:, None]
            smoothed[rows] = (kernel.astype(outcomes.dtype, copy=False) @ outcomes) / np.maximum(
                total, 1e-300
            )
        return smoothed

    def likelihood(self) -> float:
        """Return the mean leave-one-out log density of the rows."""
        total = 0.0
        for _, logs in self.blocks():
            highest = np.maximum(logs.max(axis=1), -1e300)
            total += float((highest + np.log(np.exp(logs - highest[:, None]).sum(axis=1))).sum())
        return total


def _bandwidth(p: Array) -> float:
    """Return the bandwidth with the largest leave-one-out likelihood on some of the rows."""
    some = p[:: max(1, len(p) // _CHOSEN_ON)]
    alike = np.ones(len(some))
    found = [DirichletKernel(some, alike, float(width)).likelihood() for width in _BANDWIDTHS]
    return float(_BANDWIDTHS[int(np.argmax(found))])


def _interval(
    kernel: DirichletKernel,
    p: Array,
    smoothed: Array,
    distance: _Distance,
    value: float,
    level: float,
    seed: int,
) -> Inverted:
    """Return what the value says about the true error, from draws at a few candidate truths."""
    rng = np.random.default_rng(seed)
    n, columns = p.shape
    at_once = int(np.clip(_DRAWN // (n * columns * _DRAWS), 1, len(_POSITIONS)))
    values: list[list[float]] = []
    for first in range(0, len(_POSITIONS), at_once):  # each batch makes the kernel anew
        some = _POSITIONS[first : first + at_once]
        hot = [_draw(_truth(p, smoothed, position), rng) for position in some]
        drawn = kernel.smooth(np.concatenate(hot, axis=1)).reshape(n, len(some), _DRAWS, columns)
        values += [[distance(drawn[:, i, draw]) for draw in range(_DRAWS)] for i in range(len(some))]
    mean, sd = np.mean(values, axis=1), np.std(values, axis=1, ddof=1)
    order = np.argsort(_POSITIONS)
    place = np.array(_POSITIONS)[order]
    means, sds = mean[order], sd[order]
    slope = float((means[0] - means[1]) / (place[1] - place[0]))

    def moments(position: float) -> Moments:
        error = distance(_truth(p, smoothed, position))
        expected = float(np.interp(position, place, means)) + slope * max(place[0] - position, 0.0)
        variance = float(np.interp(position, place, sds**2))
        return Moments(error, expected, max(variance**0.5, 1e-12), 0.0)

    return invert([moments], value, level, tolerance=1e-3)


def _draw(truth: Array, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw what happens (n, draws · C), as 0 and 1."""
    uniform = rng.random((len(truth), _DRAWS))
    labels = (uniform[:, :, None] > truth.cumsum(axis=1)[:, None, :-1]).sum(axis=2)
    return np.asarray(np.eye(truth.shape[1], dtype=np.float32)[labels].reshape(len(truth), -1))


def _truth(p: Array, smoothed: Array, position: float) -> Array:
    """Return candidate true probabilities (n, C): 1 is p, 0 what is estimated, below 0 beyond."""
    truth = np.maximum(p + (1 - position) * (smoothed - p), 0)
    total = truth.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(truth, total, out=p.copy(), where=total > 0))
