"""Binned calibration errors: of the top class, of one class, class-wise, and of each predicted class."""

from __future__ import annotations

from typing import Any

from focalcal._settings import check_bins, check_choice, check_debiased, check_level
from focalcal.intervals.estimate import Estimate
from focalcal.intervals.resample import estimate_gap_sum
from focalcal.metrics.binned_errors import NORMS, estimate_binned
from focalcal.rows import ArrayRows, Rows
from focalcal.sums.bins import BinSums
from focalcal.sums.clusters import design_effect, inflated
from focalcal.sums.events import EventPass, PredictedPass, collect, find_column
from focalcal.sums.judging import Pass, judge, judge_rows, prepare


def ece(
    y_true: Any,
    y_prob: Any = None,
    sample_weight: Any = None,
    *,
    input: str = "probs",
    classes: Any = None,
    ignore_index: int | None = None,
    of_class: Any = None,
    bins: int = 15,
    binning: str = "equal-width",
    norm: str = "l1",
    debiased: bool = False,
    level: float = 0.95,
) -> Estimate:
    r"""Compute the expected calibration error, Σ_b share_b |confidence_b − hit rate_b|, or its kin.

    Parameters
    ----------
    y_true, y_prob, sample_weight, input, classes, ignore_index, level
        As in `focalcal.evaluate`.
    of_class : label, optional
        The class whose probability is judged. By default the top class is: its confidence and hits.
    bins : int
        Number of bins.
    binning : {"equal-width", "equal-mass"}
        Edges at 0, 1/bins, …, 1, or edges that part the weight evenly without parting equal confidences.
    norm : {"l1", "l2", "max"}
        The mean of the bins' |gaps| (ECE), the root of the mean of their squares (RMSCE, some papers' ECE₂),
        or the largest (MCE), which the emptiest bin decides.
    debiased : bool
        Take off what noise adds: for "l2" share_b ȳ(1 − ȳ)/(n_b − 1) a bin [2], for "l1" what normal noise
        adds to each |gap|. Below 0 counts as 0. The interval is the same: it allows for the bias in any case.

    Returns
    -------
    Estimate
        The plug-in value is biased upward; its interval is not, so it may lie below the value.

    See Also
    --------
    classwise_ece, top_label_ece, smooth_ece, ks_error, kernel_ece

    Notes
    -----
    Bins are (l, u], 0 falls in the first and 1 in the last; edges are rounded to the precision of `y_prob`
    first. See `focalcal.intervals.resample.estimate_gap_sum` for the interval of "l1" and its measured
    coverage; those of "l2" and "max" invert a test by simulation and are *approximate*: they covered in 91 to
    100 % and 90 to 98 % (``benchmarks/results/interval_coverage.txt``).

    References
    ----------
    [1] Guo et al. 2017, arXiv:1706.04599. [2] Kumar, Liang and Ma 2019, arXiv:1909.10155.

    Examples
    --------
    >>> ece([1, 1, 1, 0], [0.75, 0.75, 0.75, 0.75]).value
    0.0
    >>> ece([1, 1], [0.95, 1.0]).value  # both in the last bin: |0.975 − 1|
    0.025000000000000022
    >>> ece([1, 1, 0, 0], [0.9, 0.9, 0.8, 0.8], norm="max").value  # gaps of .1 and .8
    0.8
    """
    bins, level = check_bins(bins), check_level(level)
    check_debiased(check_choice("norm", norm, NORMS), debiased)
    rows, found = prepare(y_true, y_prob, sample_weight, input, classes, ignore_index=ignore_index)
    column = None if of_class is None else find_column(of_class, found)
    return estimate_binned(bins_of(rows, column, bins, binning), rows.n, level, norm, debiased)


def bins_of(rows: Rows, column: int | None, bins: int, binning: str) -> BinSums:
    """Bin the confidence of the top class, or the probability of one class."""
    equal_mass = check_choice("binning", binning, ("equal-width", "equal-mass")) == "equal-mass"
    if column is not None:
        return _of_class(rows, column, bins, equal_mass)
    sums = judge_rows(rows, Pass(rows.kind, bins, with_confidence=equal_mass))
    if not equal_mass:
        return sums.top
    if sums.confidences is None:  # labels are distributions
        return collect(rows).equal_mass(bins)
    return sums.confidences.equal_mass(bins)


def _of_class(rows: Rows, column: int, bins: int, equal_mass: bool) -> BinSums:
    """Bin one class's probability."""
    if not equal_mass:
        return _of_clusters(rows.map_sum(PredictedPass(rows.kind, bins, column)), rows, column)
    if isinstance(rows, ArrayRows) and rows.codes.ndim == 2:
        return collect(rows, column).equal_mass(bins)
    return _of_clusters(rows.map_sum(EventPass(rows.kind, column)).equal_mass(bins), rows, column)


def _of_clusters(sums: BinSums, rows: Rows, column: int | None = None) -> BinSums:
    """Let the pixels of an image count for as many rows as they are worth."""
    if not isinstance(rows, ArrayRows) or rows.cluster is None:
        return sums
    return inflated(sums, design_effect(rows, column))


def classwise_ece(
    y_true: Any,
    y_prob: Any = None,
    sample_weight: Any = None,
    *,
    input: str = "probs",
    classes: Any = None,
    ignore_index: int | None = None,
    bins: int = 15,
    norm: str = "l1",
    debiased: bool = False,
    level: float = 0.95,
) -> Estimate:
    """Compute the class-wise ECE: the mean over classes of Σ_b share_b |probability_b − rate_b|.

    Parameters
    ----------
    y_true, y_prob, sample_weight, input, classes, ignore_index, level
        As in `focalcal.evaluate`.
    bins : int
        Number of equal-width bins of each class.
    norm, debiased
        As in `ece`; for "l2" the mean over classes is taken before the root (some papers sum over classes and
        call it the marginal calibration error), "max" is over all bins of all classes.

    Returns
    -------
    Estimate
        The plug-in value is biased upward; its interval is not, so it may lie below the value.

    Notes
    -----
    Divided by K, as in [1]; every class counts the same, however rare. See
    `focalcal.intervals.resample.estimate_gap_sum` for the interval of "l1" and its measured coverage.

    References
    ----------
    [1] Kull et al. 2019, arXiv:1910.12656.

    Examples
    --------
    >>> classwise_ece([0, 0, 1, 1], [[0.75, 0.25], [0.75, 0.25], [0.25, 0.75], [0.25, 0.75]]).value
    0.25
    """
    bins, level = check_bins(bins), check_level(level)
    check_debiased(check_choice("norm", norm, NORMS), debiased)
    sums, rows = judge(
        y_true, y_prob, sample_weight, input, classes, ignore_index=ignore_index, bins=bins, with_classes=True
    )
    assert sums.classwise is not None
    return estimate_binned(sums.classwise, rows.n, level, norm, debiased)


def top_label_ece(
    y_true: Any,
    y_prob: Any = None,
    sample_weight: Any = None,
    *,
    input: str = "probs",
    classes: Any = None,
    ignore_index: int | None = None,
    bins: int = 15,
    level: float = 0.95,
) -> Estimate:
    """Compute the top-label ECE: the confidence is judged apart for each predicted class.

    Parameters
    ----------
    y_true, y_prob, sample_weight, input, classes, ignore_index, level
        As in `focalcal.evaluate`.
    bins : int
        Number of equal-width bins of each predicted class.

    Returns
    -------
    Estimate
        The plug-in value is biased upward; its interval is not, so it may lie below the value.

    Notes
    -----
    Σ over predicted classes and bins of share · |confidence − hit rate|. It is at least the ECE with the same
    bins, where over-confidence in one class hides under-confidence in another.

    References
    ----------
    Gupta and Ramdas 2022, arXiv:2107.08353.

    Examples
    --------
    Two classes predicted with confidence .75, one always right and the other right half the time:

    >>> p = [[0.75, 0.25], [0.75, 0.25], [0.25, 0.75], [0.25, 0.75]]
    >>> ece([0, 0, 1, 0], p).value, top_label_ece([0, 0, 1, 0], p).value
    (0.0, 0.25)
    """
    bins, level = check_bins(bins), check_level(level)
    rows, _ = prepare(y_true, y_prob, sample_weight, input, classes, ignore_index=ignore_index)
    sums = _of_clusters(rows.map_sum(PredictedPass(rows.kind, bins)), rows)
    return estimate_gap_sum(sums, rows.n, level)
