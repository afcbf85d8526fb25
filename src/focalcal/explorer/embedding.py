"""What the page holds of a user's predictions: few numbers, from which NLL and ECE follow at every (T, γ).

Both need of a row only its label's logit and, of all others, sums of functions that are nearly exponential in
the logit. So the largest logits are kept as they are, and of the rest neighbours in size share one value.
"""

from __future__ import annotations

import base64
import json
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import focalcal
from focalcal._settings import check_count
from focalcal._validate import CalibrationWarning, to_logits
from focalcal.calibrators import FocalTemperatureScaling, TemperatureScaling
from focalcal.maps import map_scores
from focalcal.rows import ArrayRows, CheckValues, Rows

#: Numbers that a page holds at most.
NUMBERS = 200_000

#: Logits of a row, beside its label's, that stay as they are, and values that stand for all others.
_EXACT, _GROUPS = 24, 24

#: Numbers that are compressed at most, and the fewest rows.
_READ, _FEWEST = 1 << 23, 500

#: Rows that are drawn from, for each that is kept, where only rows that lie together can be read.
_SPREAD = 16

#: The γ of the page's slider; so the best γ is one it can show.
GAMMA_BOUNDS = (-1.0, 10.0)


@dataclass(frozen=True)
class Embedded:
    """Predictions as the page holds them.

    Attributes
    ----------
    logits : ndarray of shape (n, m), float32
        The label's logit first, then the others in falling order, all less the row's largest.
    counts : ndarray of shape (m,)
        How many classes each column stands for.
    hits : ndarray of shape (n,), bool
        Whether the top class is the label.
    weight : ndarray of shape (n,), float32, or None
    order : ndarray of shape (n, K)
        Column of each class that the counts run through.
    exact : ndarray of shape (n, K)
        The logits as given, less the row's largest.
    codes : ndarray of shape (n,)
        Column of the label.
    whole : int
        Rows of which these were drawn.
    """

    logits: NDArray[np.float32]
    counts: NDArray[np.int64]
    hits: NDArray[np.bool_]
    weight: NDArray[np.float32] | None
    order: NDArray[np.int64]
    exact: NDArray[np.float64]
    codes: NDArray[np.int64]
    whole: int

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.logits)

    @property
    def n_classes(self) -> int:
        """Number of classes K."""
        return int(self.counts.sum())

    def expanded(self) -> NDArray[np.float64]:
        """Return the logits of all classes as the page knows them, (n, K) in the order of the columns."""
        full = np.empty(self.order.shape)
        np.put_along_axis(full, self.order, np.repeat(self.logits, self.counts, axis=1), axis=1)
        return full

    def fits(self) -> dict[str, dict[str, float]]:
        """Return the parameters that minimise the NLL of these rows: of one temperature, and of both."""
        z, weight = self.expanded(), self.weight
        classes = np.arange(self.n_classes)
        with warnings.catch_warnings():
            # of the page's own rows; the user's fit is for `focalcal fit`, which tells all of it
            warnings.simplefilter("ignore", CalibrationWarning)
            ts = TemperatureScaling(classes=classes).fit(z, self.codes, weight)
            both = FocalTemperatureScaling(classes=classes, gamma_bounds=GAMMA_BOUNDS)
            both.fit(z, self.codes, weight)
        return {
            "ts": {"temperature": ts.temperature_, "gamma": 0.0},
            "fts": {"temperature": both.temperature_, "gamma": both.gamma_},
        }

    def off(self, fits: Iterable[dict[str, float]]) -> dict[str, float]:
        """Return how far NLL and ECE of the page are from those of the logits as given, at most."""
        given, kept = self.exact, self.expanded()
        worst = dict.fromkeys(("nll", "ece"), 0.0)
        for fit in fits:
            one, other = (
                focalcal.evaluate(
                    self.codes,
                    map_scores(z, "logits", fit["temperature"], fit["gamma"]),
                    self.weight,
                    input="logits",
                    classes=np.arange(self.n_classes),
                )
                for z in (given, kept)
            )
            for name in worst:
                worst[name] = max(worst[name], abs(one[name].value - other[name].value))
        return worst

    def to_dict(self) -> dict[str, Any]:
        """Return what the page's script reads."""
        fits = self.fits()
        return {
            "n": self.n,
            "whole": self.whole,
            "classes": self.n_classes,
            "counts": self.counts.tolist(),
            "exact": self.n_classes if self.counts.max() == 1 else 1 + _EXACT,
            "logits": _base64(self.logits.astype("<f4")),
            "hits": _base64(self.hits.astype(np.uint8)),
            "weights": None if self.weight is None else _base64(self.weight.astype("<f4")),
            "fits": fits,
            "off": self.off([{"temperature": 1.0, "gamma": 0.0}, *fits.values()]),
        }


def embed(rows: Rows, limit: int, seed: int) -> Embedded:
    """Draw at most `limit` rows, fewer where there are many classes, and compress them."""
    limit = check_count("rows", limit)
    width = min(rows.n_classes, 1 + _EXACT + _GROUPS)
    limit = min(limit, NUMBERS // width, max(_FEWEST, _READ // rows.n_classes))
    chosen = _draw(rows, limit, np.random.default_rng(seed))
    if chosen.weight is not None and not chosen.weight.any():
        raise ValueError(
            f"Expected some weight above 0 among the {chosen.n} rows drawn for the page, got only zeros. "
            "Select the rows that count (--where 'weight > 0')."
        )
    chosen.map_sum(CheckValues(chosen.kind, "y_prob"))
    z = to_logits(chosen.scores, chosen.kind).astype(np.float64)
    return _compress(z, chosen.codes, chosen.weight, rows.n)


def _draw(rows: Rows, limit: int, generator: np.random.Generator) -> ArrayRows:
    """Return rows drawn at random, in their order; of a table on disk, from chunks spread evenly."""
    pool: ArrayRows | None = rows if isinstance(rows, ArrayRows) else None
    if pool is None:
        pool = rows.sample(max(limit, min(_SPREAD * limit, _READ // rows.n_classes)))
    if pool is None:  # that is most of the rows, or all rows of the chunks have weight 0
        pool = rows.in_memory()
    if pool.n <= limit:
        return pool
    index = np.sort(generator.choice(pool.n, limit, replace=False))
    weight = None if pool.weight is None else pool.weight[index]
    return ArrayRows(pool.scores[index], pool.codes[index], weight, pool.kind)


def _compress(
    z: NDArray[np.float64], codes: NDArray[np.int64], weight: NDArray[np.float64] | None, whole: int
) -> Embedded:
    every = np.arange(len(z))
    below = z - z.max(axis=1, keepdims=True)
    key = -below
    key[every, codes] = -np.inf
    order = np.argsort(key, axis=1, kind="stable")
    ordered = np.take_along_axis(below, order, axis=1)
    counts = _counts(z.shape[1])
    return Embedded(
        _merged(ordered, counts).astype(np.float32),
        counts,
        z.argmax(axis=1) == codes,
        None if weight is None else weight.astype(np.float32),
        order,
        below,
        codes,
        whole,
    )


def _counts(n_classes: int) -> NDArray[np.int64]:
    """Return how many classes each kept value stands for: one, and in the tail ever more."""
    tail = n_classes - 1 - _EXACT
    if tail <= _GROUPS:
        return np.ones(n_classes, np.int64)
    least = _EXACT + np.arange(_GROUPS + 1)  # so that no group is empty
    edges = np.maximum(np.geomspace(_EXACT, n_classes - 1, _GROUPS + 1).round().astype(np.int64), least)
    return np.concatenate([np.ones(1 + _EXACT, np.int64), np.diff(edges)])


def _merged(ordered: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return one value a group: the logarithm of the mean of the exponentials, exact in the NLL at T = 1."""
    if counts.max() == 1:
        return ordered
    starts = np.cumsum(counts) - counts
    highest = np.maximum(ordered[:, starts], -1e300)  # the first of each group, as they fall
    scaled = np.exp(ordered - np.repeat(highest, counts, axis=1))
    with np.errstate(divide="ignore"):
        return np.asarray(highest + np.log(np.add.reduceat(scaled, starts, axis=1) / counts))


def _base64(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")


def safe_json(document: Any) -> str:
    r"""Return JSON that can stand in a script element: nothing in it ends the element or a line.

    Examples
    --------
    >>> safe_json({"name": "</script>"})
    '{"name": "\\u003c/script>"}'
    """
    text = json.dumps(document, ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c")
