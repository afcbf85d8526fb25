"""The report's verdict: what the numbers support, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from focalcal.intervals.estimate import Estimate
from focalcal.intervals.gap_interval import error_by_chance
from focalcal.plots import percent
from focalcal.reporting.names import shown
from focalcal.verdicts.comparison import Comparison
from focalcal.verdicts.evaluation import Evaluation


@dataclass(frozen=True)
class Verdict:
    """One sentence to remember, and the sentences that back it."""

    headline: str
    details: list[str]


def interval(e: Estimate) -> str:
    """Return "value [low, high]" in percent."""
    return f"{percent(e)} [{percent(e, e.low)}, {percent(e, e.high)}]"


def verdict(evaluations: Mapping[str, Evaluation], comparison: Comparison | None = None) -> Verdict:
    """Say how the last set of predictions is calibrated, and what changed since the first.

    `comparison` is of the first with the last on the same rows. Without it both intervals are taken at their
    ends.
    """
    names, sets = list(evaluations), list(evaluations.values())
    last, name = sets[-1], shown(names[-1])
    if len(sets) == 1:
        headline = f"The calibration error (ECE) is {interval(last['ece'])}, on {last.n:,} rows."
        return Verdict(headline, [*_chance(last), _direction(last, name)])
    before, after = sets[0]["ece"], last["ece"]
    pair = f"from {interval(before)} ({shown(names[0])}) to {interval(after)} ({name}), on {last.n:,} rows."
    low, high = change(sets[0], last, comparison)
    if high < 0:
        headline = f"Calibration improved: the error (ECE) fell {pair}"
        size = f"The fall is {points(-high)} to {points(-low)} percentage points"
    elif low > 0:
        headline = f"Calibration got worse: the error (ECE) rose {pair}"
        size = f"The rise is {points(low)} to {points(high)} percentage points"
    else:
        headline = f"No change in calibration is shown: the error (ECE) went {pair}"
        size = f"Possible is a fall by {points(-low)} or a rise by {points(high)} percentage points"
    how = (
        f"both {before.level:.0%} intervals are taken at their ends, which is cautious"
        if comparison is None
        else f"{before.level:.0%} interval of the difference on the same rows"
    )
    details = [f"{size} ({how}). {_accuracy(sets[0], last)}"]
    details += [*_log_loss(comparison), *_chance(last), _direction(last, name)]
    return Verdict(headline, details)


def _log_loss(comparison: Comparison | None) -> list[str]:
    """Say how the log loss, a proper score, changed on the same rows."""
    if comparison is None:
        return []
    one = comparison["nll"]
    d = one.difference
    ends = f"{min(abs(d.low), abs(d.high)):.4f} to {max(abs(d.low), abs(d.high)):.4f}"
    if d.low > 0 or d.high < 0:
        moved = "rose" if d.low > 0 else "fell"
        return [f"The log loss {moved} by {ends} nats a row ({d.level:.0%} interval, on the same rows)."]
    return [
        f"The log loss went from {one.a.value:.4f} to {one.b.value:.4f}; its change, {d.low:+.4f} to "
        f"{d.high:+.4f} ({d.level:.0%} interval, on the same rows), may be chance.".replace("-", "−")
    ]


def change(first: Evaluation, last: Evaluation, comparison: Comparison | None) -> tuple[float, float]:
    """Return the ends of what the ECE changed by: below 0 it fell."""
    if comparison is not None:
        difference = comparison["ece"].difference
        return difference.low, difference.high
    before, after = first["ece"], last["ece"]
    return after.low - before.high, after.high - before.low


def _chance(evaluation: Evaluation) -> list[str]:
    """Where the interval reaches 0, say what noise alone would show."""
    if evaluation["ece"].low > 0:
        return []
    shown = percent(evaluation["ece"], error_by_chance(evaluation.bins))
    return [
        f"An error of {percent(evaluation['ece'])} is no evidence of miscalibration: on so many rows, a "
        "perfectly calibrated model with these confidences would show "
        f"{shown} on average, from chance alone."
    ]


def points(value: float) -> str:
    """Return a share in percentage points, with digits that fit it."""
    return f"{100 * value:.{2 if value < 0.01 else 1}f}"


def _accuracy(first: Evaluation, last: Evaluation) -> str:
    a, b = first["accuracy"], last["accuracy"]
    if abs(a.value - b.value) < 1e-12:
        return f"Accuracy is the same, {percent(b)}."
    return f"Accuracy went from {percent(a)} to {percent(b)}."


def lean(evaluation: Evaluation) -> int:
    """Return 1 where confidence is above the accuracy's interval, −1 where it is below, 0 within it."""
    accuracy = evaluation["accuracy"]
    confidence = mean_confidence(evaluation)
    return int(confidence > accuracy.high) - int(confidence < accuracy.low)


def mean_confidence(evaluation: Evaluation) -> float:
    """Return the mean confidence of the top class."""
    return float(evaluation.bins.confidence.sum() / evaluation.bins.weight.sum())


_LEANS = {
    1: "over‑confident on the whole",
    -1: "under‑confident on the whole",
    0: "neither over‑ nor under‑confident on the whole, as far as these rows show",
}


def _direction(evaluation: Evaluation, name: str) -> str:
    return (
        f"“{name}” has a mean confidence of {mean_confidence(evaluation):.1%} and a hit rate of "
        f"{interval(evaluation['accuracy'])}, over {evaluation.n_classes:,} classes: "
        f"{_LEANS[lean(evaluation)]}."
    )
