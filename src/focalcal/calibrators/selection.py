"""Choosing among calibrators by how they do on rows they were not fitted on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from focalcal._settings import check_candidates, check_fold_clusters
from focalcal._validate import check_cluster, check_lengths, check_source_alone
from focalcal.calibrators.base import Calibrator
from focalcal.calibrators.confidence.mixed import MixedTemperatureScaling
from focalcal.calibrators.diagnostics import Fitted
from focalcal.calibrators.held_out import Array, HeldOut, held_out
from focalcal.calibrators.matrix.focal_matrix import FOLDS, FocalMatrixScaling
from focalcal.calibrators.matrix.shrinkage import folds
from focalcal.calibrators.objective import Objective
from focalcal.calibrators.ranking import Ranked
from focalcal.calibrators.temperature.temperature import FocalTemperatureScaling, TemperatureScaling
from focalcal.intervals.estimate import Estimate
from focalcal.rows import ArrayRows, Rows, is_source

#: Fewest rows that are parted into folds; below, the first candidate is taken.
_FEWEST = 20

#: Rows from which what none of them shows is as good as none: below, temperature scaling gets a share.
_SHOWING = 1000

#: Numbers beyond which the candidates are compared on a part of the rows, spread evenly.
_ENOUGH = 1 << 23

#: Classes beyond which a matrix of them is not fitted.
_MOST_CLASSES = 1000

#: Half-width of a 95 % interval in standard errors.
_TWO_SIDED = 1.959963984540054


def candidates(held: HeldOut) -> list[Calibrator]:
    """Return what is chosen among by default, the simplest first."""
    few = held.n_effective < _SHOWING
    first = MixedTemperatureScaling(share=held.prior_share) if few else TemperatureScaling()
    best = FocalMatrixScaling() if held.n_classes <= _MOST_CLASSES else FocalTemperatureScaling()
    return [first, best]


def fit_best(
    X: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    methods: Sequence[Calibrator] | None = None,
    input: str = "logits",
    classes: Any = None,
    cluster: Any = None,
    executor: Executor | None = None,
) -> Calibrator:
    r"""Fit the calibrator that does best on rows it was not fitted on.

    Parameters
    ----------
    X, y, sample_weight, executor
        As for `TemperatureScaling.fit`.
    methods : sequence of unfitted calibrators, optional
        The candidates, the simplest first; their `input` and `classes` are set to those given here. By
        default temperature scaling and focal matrix scaling, of which focal temperature scaling is a special
        case; with more than 1,000 classes temperature scaling and focal temperature scaling. With fewer than
        1,000 rows a share 1/(4n + 4) of the uniform distribution is mixed into temperature scaling
        (`MixedTemperatureScaling`), as it always is into focal matrix scaling: rows without a sure and wrong
        one do not show that there is none.
    input : {"logits", "probs"}
        What X holds. It is declared, never guessed.
    classes : sequence of K labels, optional
        The class of each column; needed when labels are not column numbers and not all occur.
    cluster : array of shape (n,), optional
        Rows that belong together (prompts of one question) share a value: they are left out together, and
        standard errors allow for them. For arrays alone; at least five different values.

    Returns
    -------
    Calibrator
        Fitted; its `ranking_` is a list of `Ranked`, the lowest loss first.

    Raises
    ------
    ValueError, TypeError
        If the data are not what was declared; the message says what to do.

    Notes
    -----
    Five folds are left out in turn. Of the candidates whose mean negative log-likelihood on rows left out is
    within one standard error of the lowest (of the paired difference), the first is returned: a candidate
    has to show that it is better than a simpler one. With fewer than 20 rows of positive weight that is the
    first of all, and `ranking_` is empty. `FocalMatrixScaling` is no candidate where fewer than ten of the
    rows have another class on top than their label's: what classes have in common is in the errors.

    `FocalMatrixScaling` has chosen its strengths and their shares on the same left-out rows: its loss is
    lower than on new rows by some 2/n. Beyond eight
    million numbers in X the comparison takes a part of the rows, spread evenly; temperature and focal
    temperature scaling are then fitted on all rows, in a stream, what needs rows in memory on the part.

    References
    ----------
    Breiman, Friedman, Olshen and Stone, Classification and Regression Trees, 1984 (one standard error).

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> z = rng.normal(size=(1000, 3)) * 2
    >>> p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    >>> y = np.array([rng.choice(3, p=row) for row in p])
    >>> best = fit_best(2 * z, y)  # all that is wrong is the temperature
    >>> type(best).__name__, len(best.ranking_)
    ('TemperatureScaling', 2)
    """
    given = None if methods is None else check_candidates(methods)
    first = TemperatureScaling(input=input, classes=classes)
    if is_source(X):
        check_source_alone(None, cluster)
    rows, columns = first._read(X, y, sample_weight, executor)
    if cluster is not None and isinstance(rows, ArrayRows):
        rows = replace(rows, cluster=_numbered(cluster, rows.n))
    part = _compared(rows)
    held = held_out(Objective(part))
    held = held.part(held.weight > 0)
    some = candidates(held) if given is None else given
    tried: list[Calibrator] = [clone(one).set_params(input=input, classes=classes) for one in some]
    for one in tried:
        one._check_settings()
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(first, name):
                setattr(one, name, getattr(first, name))
    chosen, fitted, ranking = _choose(tried, held)
    if isinstance(chosen, (TemperatureScaling, FocalTemperatureScaling)) and part is not rows:
        part, fitted = rows, None
    chosen._take(fitted or chosen._estimate(Objective(part)), part, columns, stacklevel=3)
    chosen.ranking_ = ranking
    return chosen


def _numbered(cluster: Any, n: int) -> NDArray[np.int64]:
    values = check_cluster(cluster)
    check_lengths(n, values, "cluster")
    found, codes = np.unique(values, return_inverse=True)
    check_fold_clusters(len(found), FOLDS)
    return np.asarray(codes, np.int64)


def _compared(rows: Rows) -> Rows:
    if rows.n * rows.n_classes <= _ENOUGH:
        return rows
    return rows.sample(_ENOUGH // rows.n_classes) or rows


def _choose(tried: list[Calibrator], held: HeldOut) -> tuple[Calibrator, Fitted | None, list[Ranked]]:
    """Return the calibrator of the one-standard-error rule, its fit on these rows, and the ranking."""
    errors = int((held.losses(held.log_probs) > -held.log_probs.max(axis=1)).sum())
    tried = [one for one in tried if errors >= one._fewest_errors] or tried[:1]
    if held.n < _FEWEST:
        return tried[0], None, []
    fold = folds(held, FOLDS)
    found = [one._cross_fit(held, fold) for one in tried]
    losses = [loss for _, loss in found]
    lowest = min(losses, key=lambda loss: float(held.weight @ loss))
    excess = [_mean(loss - lowest, held) for loss in losses]
    chosen = next(k for k, one in enumerate(excess) if one.value <= one.stderr or losses[k] is lowest)
    ranking = [
        Ranked(type(one).__name__, _mean(loss, held), over, k == chosen)
        for k, (one, loss, over) in enumerate(zip(tried, losses, excess, strict=True))
    ]
    ranking.sort(key=lambda one: one.loss.value)
    return tried[chosen], found[chosen][0], ranking


def _mean(values: Array, held: HeldOut) -> Estimate:
    mean = float(held.weight @ values / held.weight.sum())
    away = held.weight * (values - mean)
    if held.cluster is not None:
        away = np.bincount(held.cluster, away).astype(np.float64)
    stderr = math.sqrt(float(away @ away)) / float(held.weight.sum())
    reach = _TWO_SIDED * stderr
    return Estimate(mean, stderr, mean - reach, mean + reach, len(values), "normal, rows left out")
