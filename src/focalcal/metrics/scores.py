"""Scores that are means over rows, and what they say without labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from focalcal._settings import check_choice, check_gamma, check_level
from focalcal._validate import Input, as_array, check_block, to_logits
from focalcal.intervals.estimate import Estimate
from focalcal.intervals.resample import estimate_mean, estimate_share
from focalcal.maps import temperature_map
from focalcal.rows import ArrayRows, Block, in_blocks, is_source
from focalcal.scores import focal_loss, proper_focal_loss
from focalcal.sums.clusters import blocks_of, of_clusters
from focalcal.sums.judging import judge, prepare, warn_of_impossible
from focalcal.sums.moments import MeanSums, sum_rows
from focalcal.sums.scoring import score_block


def nll(
    y_true: Any,
    y_prob: Any = None,
    sample_weight: Any = None,
    *,
    input: str = "probs",
    classes: Any = None,
    ignore_index: int | None = None,
    level: float = 0.95,
) -> Estimate:
    """Compute the negative log-likelihood: the mean of −log p of the label, in nats.

    Parameters
    ----------
    y_true, y_prob, sample_weight, input, classes, ignore_index, level
        As in `evaluate`.

    Returns
    -------
    Estimate
        The weighted mean with its standard error and normal interval.

    Notes
    -----
    Computed in the log domain: a confident hit counts its true, tiny loss rather than 0. Probabilities are
    taken as given, not normalised; below 1e-30 they count as 1e-30 and a warning says how often. A logit
    of −inf at a label makes the NLL infinite.

    Examples
    --------
    >>> round(nll([0, 1], [[0.5, 0.5], [0.75, 0.25]]).value, 6)  # (log 2 + log 4) / 2
    1.039721
    """
    check_level(level)
    sums, rows = judge(y_true, y_prob, sample_weight, input, classes, ignore_index=ignore_index)
    warn_of_impossible(sums, rows.n)
    return estimate_mean(sums.nll, rows.n, level)


def brier(
    y_true: Any,
    y_prob: Any = None,
    sample_weight: Any = None,
    *,
    input: str = "probs",
    classes: Any = None,
    ignore_index: int | None = None,
    level: float = 0.95,
) -> Estimate:
    """Compute the Brier score: the mean over rows of the squared error summed over classes, in [0, 2].

    Parameters
    ----------
    y_true, y_prob, sample_weight, input, classes, ignore_index, level
        As in `evaluate`.

    Returns
    -------
    Estimate
        The weighted mean with its standard error and normal interval.

    Notes
    -----
    Σ_k (p_k − [y = k])², Brier's own definition. For two classes scikit-learn's ``brier_score_loss`` gives
    half of it by default; some papers divide by K.

    Examples
    --------
    >>> brier([0, 1], [[0.5, 0.5], [0.75, 0.25]]).value  # (0.5 + 1.125) / 2
    0.8125
    """
    check_level(level)
    sums, rows = judge(y_true, y_prob, sample_weight, input, classes, ignore_index=ignore_index)
    return estimate_mean(sums.brier, rows.n, level)


def accuracy(
    y_true: Any,
    y_prob: Any = None,
    sample_weight: Any = None,
    *,
    input: str = "probs",
    classes: Any = None,
    ignore_index: int | None = None,
    level: float = 0.95,
) -> Estimate:
    """Compute the share of rows whose most probable class is the label (of equal ones, the first counts).

    Parameters
    ----------
    y_true, y_prob, sample_weight, input, classes, ignore_index, level
        As in `evaluate`.

    Returns
    -------
    Estimate
        The weighted share with its standard error and Wilson's interval, taken at (Σw)²/Σw² rows.

    Examples
    --------
    >>> accuracy([0, 1], [[0.5, 0.5], [0.75, 0.25]]).value
    0.5
    """
    check_level(level)
    sums, rows = judge(y_true, y_prob, sample_weight, input, classes, ignore_index=ignore_index)
    return estimate_share(sums.accuracy, rows.n, level)


def focal_score(
    y_true: Any,
    y_prob: Any = None,
    sample_weight: Any = None,
    *,
    gamma: float,
    proper: bool = False,
    input: str = "probs",
    classes: Any = None,
    ignore_index: int | None = None,
    level: float = 0.95,
) -> Estimate:
    r"""Compute the mean focal loss of predictions, or of its proper part.

    Parameters
    ----------
    y_true, y_prob, sample_weight, input, classes, ignore_index, level
        As in `evaluate`.
    gamma : float
        Focal parameter γ ≥ −1; with 0 both are the NLL.
    proper : bool
        By default FL_γ of the probabilities as they are: it is least not at the true probabilities q but at
        those that the focal map turns into q. True: the proper part L_γ, which is least at q.

    Returns
    -------
    Estimate
        The weighted mean with its standard error and normal interval.

    Notes
    -----
    :math:`\mathrm{FL}_\gamma(p_y) = -(1 - p_y)^\gamma \log p_y = L_\gamma(\varphi_\gamma(p), y)`: judge raw
    outputs of a network trained with focal loss by the first, and its calibrated probabilities by the second;
    the two numbers are then the same.

    References
    ----------
    Komisarenko and Kull, ECAI 2024, arXiv:2408.11598.

    Examples
    --------
    >>> round(focal_score([1], [[0.5, 0.5]], gamma=1.0).value, 4)  # ½ log 2
    0.3466
    """
    level = check_level(level)
    rows, _ = prepare(y_true, y_prob, sample_weight, input, classes, ignore_index=ignore_index)
    task = FocalPass(rows.kind, check_gamma(gamma), proper)
    sums = rows.map_sum(task)
    if isinstance(rows, ArrayRows) and rows.cluster is not None:
        losses = np.concatenate([task.losses(block) for block in blocks_of(rows)])
        sums = of_clusters(sums, losses, rows)
    return estimate_mean(sums, rows.n, level)


@dataclass(frozen=True)
class FocalPass:
    """Sum the focal loss, or its proper part, over a block of rows."""

    kind: Input
    gamma: float
    proper: bool
    threads: bool = False

    def __call__(self, block: Block) -> MeanSums:
        """Return the sums over a block of any size."""
        return in_blocks(self._sum, block)

    def _sum(self, block: Block) -> MeanSums:
        return sum_rows(self.losses(block), block.weight)

    def losses(self, block: Block) -> NDArray[np.float64]:
        """Return the loss of each row of a small block."""
        check_block(block.scores, self.kind, "y_prob", block.first)
        loss = proper_focal_loss if self.proper else focal_loss
        z = to_logits(block.scores, self.kind)
        return loss(temperature_map(z, 1.0), block.codes, self.gamma)


def sharpness(
    y_prob: Any,
    sample_weight: Any = None,
    *,
    input: str = "probs",
    measure: str = "entropy",
    level: float = 0.95,
) -> Estimate:
    """Compute how concentrated predictions are, whatever the labels.

    Parameters
    ----------
    y_prob, sample_weight, input, level
        As in `evaluate`; or, alone, what `focalcal.open_scores` returns.
    measure : {"entropy", "confidence", "squares"}
        Mean of −Σ p log p in nats (0 is certain, log K knows nothing), of the largest p, or of Σ p².

    Returns
    -------
    Estimate
        The weighted mean with its standard error and normal interval.

    Notes
    -----
    Among calibrated predictions the sharpest are the best (Gneiting et al. 2007); alone it says nothing of
    quality. Where predictions are calibrated, the mean entropy is the expected NLL.

    Examples
    --------
    >>> round(sharpness([[0.5, 0.5]]).value, 4), sharpness([[0.5, 0.5]], measure="squares").value
    (0.6931, 0.5)
    """
    level = check_level(level)
    check_choice("measure", measure, ("entropy", "confidence", "squares"))
    if not is_source(y_prob):
        scores = as_array(y_prob, "y_prob")
        labels = np.zeros(scores.shape[:1] + scores.shape[2:] if scores.ndim > 2 else len(scores), np.int64)
        rows, _ = prepare(labels, scores, sample_weight, input, None)
    else:
        rows, _ = prepare(y_prob, None, sample_weight, input, None)
    return estimate_mean(rows.map_sum(SharpnessPass(rows.kind, measure)), rows.n, level)


@dataclass(frozen=True)
class SharpnessPass:
    """Sum a measure of concentration over a block of rows."""

    kind: Input
    measure: str
    threads: bool = False

    def __call__(self, block: Block) -> MeanSums:
        """Return the sums over a block of any size."""
        return in_blocks(self._sum, block)

    def _sum(self, block: Block) -> MeanSums:
        scored = score_block(block, self.kind)
        if self.measure == "confidence":
            return sum_rows(scored.confidence, block.weight)
        p = scored.probs.astype(np.float64)
        return sum_rows(
            (p**2).sum(axis=1) if self.measure == "squares" else entr(p).sum(axis=1), block.weight
        )
