"""What to do next: each piece of advice with the numbers that call for it, and none without."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scipy.stats import binom

from focalcal.calibrators.temperature.profile import Profile
from focalcal.intervals.gap_interval import error_by_chance
from focalcal.plots import percent
from focalcal.reporting.classes import Classes
from focalcal.reporting.names import shown
from focalcal.reporting.svg import number
from focalcal.reporting.tables import p_text, p_values
from focalcal.reporting.words import change, interval, lean
from focalcal.verdicts.comparison import Comparison
from focalcal.verdicts.evaluation import Evaluation
from focalcal.verdicts.segments import Segment

#: An error by chance above this hides what most users care about.
_COARSE = 0.01

#: How surely a number of classes or segments is more than chance, and a fit is of other data.
_SURE = 0.05

#: Names that are listed before "and … more".
_LISTED = 3

#: Calibrators that treat every class alike.
_COMMON = (
    "TemperatureScaling",
    "FocalTemperatureScaling",
    "MixedTemperatureScaling",
    "EnsembleTemperatureScaling",
    "OrderPreservingCalibration",
    "SplineCalibration",
)


@dataclass(frozen=True)
class Advice:
    """What to do in a few words, why, and the commands that do it."""

    what: str
    why: str
    commands: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Facts:
    """All that advice is derived from."""

    evaluations: Mapping[str, Evaluation]
    comparison: Comparison | None = None
    classes: Classes | None = None
    segments: Sequence[Segment] = ()
    profile: Profile | None = None
    artefact: Mapping[str, Any] | None = None
    flags: Sequence[str] = ()

    @property
    def names(self) -> list[str]:
        """The evaluations' names, as they are shown."""
        return [shown(name) for name in self.evaluations]

    @property
    def sets(self) -> list[Evaluation]:
        """The evaluations in order."""
        return list(self.evaluations.values())


def advise(facts: Facts) -> list[Advice]:
    """Return what the numbers call for, the most urgent first."""
    if len(facts.sets) == 1:
        first = list(_of_one(facts))
        if first[0].commands:  # what single classes and segments need is seen after the fit
            return first
    else:
        first = list(_of_two(facts))
    return [*_of_the_fit(facts), *first, *_of_classes(facts), *_of_segments(facts), *_of_rows(facts)]


def _of_one(facts: Facts) -> Iterator[Advice]:
    evaluation = facts.sets[0]
    ece = evaluation["ece"]
    if ece.low <= 0:
        yield _nothing(f"The interval of the calibration error, {interval(ece)}, reaches 0.")
        return
    profile = facts.profile
    if profile is not None and facts.artefact is None and profile.inside and lean(evaluation) == 0:
        low, high = profile.interval
        yield Advice(
            "Look beyond temperature scaling",
            f"The calibration error is at least {percent(ece, ece.low)}, but mean confidence and hit rate "
            f"agree, and the temperatures that these rows support, {low:.3g} to {high:.3g}, include 1: one "
            "temperature for all rows has nothing to mend.",
        )
        return
    yield Advice("Fit a calibrator and apply it", _why_fit(facts), _commands(facts.flags))


def _why_fit(facts: Facts) -> str:
    evaluation, profile = facts.sets[0], facts.profile
    ece = evaluation["ece"]
    kind = {1: "and the model is over‑confident", -1: "and the model is under‑confident", 0: ""}
    words = [
        f"The calibration error is at least {percent(ece, ece.low)} {kind[lean(evaluation)]}".rstrip() + "."
    ]
    if profile is not None and facts.artefact is None:
        low, high = profile.interval
        best = profile.optimum
        words.append(
            f"On these rows the best temperature is {best.temperature:.3g} ({profile.level:.0%} region "
            f"{low:.3g} to {high:.3g}); with it the mean log loss would be {best.loss:.4f} instead of "
            f"{profile.fitted.loss:.4f}."
        )
    words.append("Fit it on other rows than these, and not on those that the model was trained on.")
    return " ".join(words)


def _commands(flags: Sequence[str]) -> list[str]:
    pairs = [list(flags[i : i + 2]) for i in range(0, len(flags), 2)]
    scores = [word for pair in pairs if pair[0] in ("--logits", "--probs") for word in pair]
    every = [word for pair in pairs if pair[0] != "--where" for word in pair]
    steps = (
        ["fit", "VALIDATION", *every, "-o", "cal.json"],
        ["apply", "cal.json", "PREDICTIONS", *scores, "-o", "calibrated.parquet"],
        ["report", "TEST", *every, "--calibrator", "cal.json", "-o", "report.html"],
    )
    return [shlex.join(["focalcal", *step]) for step in steps]


def _nothing(why: str) -> Advice:
    return Advice(
        "Nothing to mend is shown",
        f"{why} Keep the model as it is, and judge it again when its data change.",
    )


def _of_two(facts: Facts) -> Iterator[Advice]:
    (before, *_, after), (one, *_, other) = facts.sets, facts.names
    a, b = before["nll"].value, after["nll"].value
    paired = facts.comparison
    rose = b > a if paired is None else paired["nll"].difference.low > 0
    if rose and after["ece"].value < before["ece"].value:
        yield Advice(
            f"Do not put “{other}” into use on these numbers",
            f"The calibration error is lower, but the log loss rose from {a:.4f} to {b:.4f} on the same "
            "rows: as predictions the probabilities got worse. Fit by log loss, on more rows.",
        )
        return
    low, high = change(before, after, facts.comparison)
    ece = after["ece"]
    if low > 0:
        yield Advice(f"Keep “{one}”", f"“{other}” is further from calibrated on these rows.")
    elif high < 0 and ece.low <= 0:
        yield Advice(
            f"Use “{other}”",
            f"Its error was shown to be lower, and the interval {interval(ece)} reaches 0: nothing more to "
            "mend is shown. Judge it again when its data change.",
        )
    elif high < 0:
        yield Advice(
            f"Use “{other}”, and know what is left",
            f"Its error was shown to be lower, but is still at least {percent(ece, ece.low)}.",
        )
    elif ece.low <= 0 and before["ece"].low <= 0:
        yield _nothing(f"Neither “{one}” nor “{other}” shows an error beyond chance.")
    else:
        yield Advice(
            f"Do not choose between “{one}” and “{other}” by their calibration error",
            "These rows do not show which is lower. The log loss is the sharper guide: "
            f"{a:.4f} against {b:.4f}.",
        )


def _of_the_fit(facts: Facts) -> Iterator[Advice]:
    profile = facts.profile
    if profile is None or facts.artefact is None or not profile.p_value < _SURE:
        return
    best = profile.optimum
    gamma = f", γ = {number(best.gamma, 3)}" if profile.parameters == 2 else ""
    yield Advice(
        "Fit again, on rows like these",
        "The fitted parameters lie outside the region that these rows support (best: "
        f"T = {best.temperature:.4g}{gamma}), by more than the fit's own error explains "
        f"(p = {p_text(profile.p_value)}): these rows are unlike those of the fit.",
        _commands(facts.flags)[:1],
    )


def _of_classes(facts: Facts) -> Iterator[Advice]:
    classes = facts.classes
    if classes is None or len(classes.names) < 3:
        return
    sure = [int(k) for k in classes.order if classes.last.low[k] > 0]
    if not _more_than_chance(len(sure), len(classes.names), classes.level):
        return
    common = facts.artefact is None or facts.artefact["calibrator"] in _COMMON
    cure = (
        " What moves all classes alike, as one temperature does, cannot mend that. A calibrator with "
        "parameters for each class (vector, matrix or Dirichlet scaling) can, given enough rows of each."
        if common
        else ""
    )
    yield Advice(
        "Look at single classes",
        f"{len(sure):,} of {len(classes.names):,} classes have an error that is surely above 0, where about "
        f"{_by_chance(len(classes.names), classes.level)} would by chance: "
        f"{_listed([classes.names[k] for k in sure])}.{cure}",
    )


def _of_segments(facts: Facts) -> Iterator[Advice]:
    adjusted = [(segment, p_values(segment)[1]) for segment in facts.segments]
    pairs = [(segment, p) for segment, p in adjusted if p is not None]
    level = facts.sets[0]["ece"].level
    if pairs:
        sure = [segment for segment, p in pairs if p < _SURE]
        why = f"by a test that allows for their number (p < {_SURE:g})"
        found = bool(sure)
    else:
        sure = [s for s in facts.segments if list(s.evaluations.values())[-1]["ece"].low > 0]
        why = f"where about {_by_chance(len(facts.segments), level)} would by chance"
        found = _more_than_chance(len(sure), len(facts.segments), level)
    if found:
        names = ["(none)" if s.value is None else s.value for s in sure]
        yield Advice(
            "Look at single segments",
            f"{len(sure):,} of {len(facts.segments):,} segments are not calibrated, {why}: {_listed(names)}. "
            "Fit a calibrator for each that has rows enough, or ask what sets them apart.",
        )


def _of_rows(facts: Facts) -> Iterator[Advice]:
    evaluation = facts.sets[-1]
    chance = error_by_chance(evaluation.bins)
    if chance <= _COARSE or evaluation["ece"].low > 0:
        return
    needed = evaluation.n * (chance / _COARSE) ** 2
    digits = 10 ** max(math.floor(math.log10(needed)) - 1, 0)
    yield Advice(
        "Judge on more rows",
        f"The interval of the error reaches {percent(evaluation['ece'], evaluation['ece'].high)}: on "
        f"{evaluation.n:,} rows chance alone shows {chance:.1%} on average. For it to show less than "
        f"{_COARSE:.0%}, about {math.ceil(needed / digits) * digits:,} rows are needed.",
    )


def _more_than_chance(found: int, n: int, level: float) -> bool:
    """Say whether more intervals start above 0 than chance explains: each does with probability 1 − level."""
    return found > 0 and float(binom.sf(found - 1, n, 1 - level)) < _SURE


def _by_chance(n: int, level: float) -> str:
    expected = n * (1 - level)
    return f"{expected:.0f}" if expected >= 1 else f"{expected:.1g}"


def _listed(names: Sequence[Any]) -> str:
    told = ", ".join(shown(name) for name in names[:_LISTED])
    return told if len(names) <= _LISTED else f"{told} and {len(names) - _LISTED:,} more"
