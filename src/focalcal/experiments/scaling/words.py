"""The study's numbers in words: names, figures with their intervals, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from focalcal.experiments.over_seeds import OverSeeds
from focalcal.experiments.pages.run_facts import data_name
from focalcal.experiments.pages.write import Entry
from focalcal.experiments.scaling.claims import Claim

#: What measures are called, by what they are multiplied, digits after the point, and their unit.
MEASURES = {
    "nll": ("Log loss", 1, 4, " nats"),
    "brier": ("Brier score", 1, 4, ""),
    "ece": ("ECE", 100, 2, " points"),
    "classwise ece": ("Class-wise ECE", 100, 3, " points"),
    "ece, equal width": ("ECE, equal width", 100, 2, " points"),
}

_CRITERIA = {"nll": "log loss", "brier": "Brier score", "ece": "ECE"}


def method_name(method: str) -> str:
    """Return what a method of `METHODS` is called.

    Examples
    --------
    >>> method_name("FTS ece, grid"), method_name("raw")
    ('FTS by ECE, on the published grid', 'scores as they are')
    """
    special = {"raw": "scores as they are", "TS + uniform": "TS mixed with uniform", "SMS": "SMS"}
    if method in special:
        return special[method]
    kind, _, criterion = method.partition(" ")
    criterion, grid, _ = criterion.partition(", grid")
    return f"{kind} by {_CRITERIA[criterion]}{', on the published grid' if grid else ''}"


def pair_name(method: str, rival: str) -> str:
    """Return a comparison's name: who less whom.

    Examples
    --------
    >>> pair_name("FTS nll", "TS nll"), pair_name("SMS", "TS nll")
    ('FTS − TS, by log loss', 'SMS − TS by log loss')
    """
    one, other = method_name(method), method_name(rival)
    criterion = other.partition(" by ")[2]
    if criterion and one.partition(" by ")[2].startswith(criterion):
        return f"{one.partition(' by ')[0]} − {other.partition(' by ')[0]}, by{one.partition(' by')[2]}"
    return f"{one} − {other}"


def value(number: float, metric: str, *, signed: bool = False) -> str:
    """Return a number in a measure's unit, with a proper minus.

    Examples
    --------
    >>> value(-0.01234, "ece", signed=True), value(-0.00001, "nll", signed=True)
    ('−1.23', '0.0000')
    """
    _, factor, digits, _ = MEASURES[metric]
    rounded = round(factor * number, digits)
    return f"{rounded or 0.0:{'+' if signed and rounded else ''}.{digits}f}".replace("-", "−")


def interval(one: OverSeeds, metric: str, *, signed: bool = False) -> str:
    """Return "low to high", or that one run has none."""
    if not math.isfinite(one.low):
        return "one run"
    return f"{value(one.low, metric, signed=signed)} to {value(one.high, metric, signed=signed)}"


def entry(one: OverSeeds, metric: str, *, signed: bool = False) -> Entry:
    """Return a table's cell: the mean, and its interval beneath."""
    return value(one.value, metric, signed=signed), interval(one, metric, signed=signed)


def overall(claim: Claim) -> OverSeeds:
    """Return the difference over all settings; that of the only one where there is one."""
    return claim.pooled if len(claim.cells) > 1 else claim.cells[0][1]


def headline(claim: Claim) -> str:
    """Say in one sentence whether focal temperature scaling beats temperature scaling by log loss."""
    one, n = overall(claim), len(claim.cells)
    said = {
        "below": "Focal temperature scaling beats temperature scaling by log loss, on average",
        "above": "Focal temperature scaling loses to temperature scaling by log loss, on average",
        "open": "Log loss does not tell focal temperature scaling from temperature scaling, on average",
    }[one.side]
    return (
        f"{said}: the mean difference is {value(one.value, 'nll', signed=True)} nats "
        f"[{interval(one, 'nll', signed=True)}], the median setting's "
        f"{value(claim.median, 'nll', signed=True)}; it is lower beyond its interval in "
        f"{claim.count('below')} of {n} settings, and higher in {claim.count('above')}."
    )


def sentence(claim: Claim) -> str:
    """Say what a comparison came to by one measure."""
    name, _, _, unit = MEASURES[claim.metric]
    one, n = overall(claim), len(claim.cells)
    mean = f"{value(one.value, claim.metric, signed=True)}{unit}"
    return (
        f"{name}, {pair_name(claim.method, claim.rival)}: {mean} "
        f"[{interval(one, claim.metric, signed=True)}], in the median setting "
        f"{value(claim.median, claim.metric, signed=True)}; lower beyond the interval in "
        f"{claim.count('below')} of {n}, higher in {claim.count('above')}, not told apart in "
        f"{claim.count('open')}."
    )


def setting_entry(name: tuple[str, str, str]) -> Entry:
    """Return a table's cell: the loss, and beneath it data set and network.

    Examples
    --------
    >>> setting_entry(("data/digits.npz", "mlp", "ce"))
    ('ce', 'digits, mlp')
    """
    data, net, loss = name
    return loss, ", ".join(filter(None, [data and data_name(data), net]))


def by_pair(found: Sequence[Claim]) -> Mapping[tuple[str, str, str], Claim]:
    """Return claims by method, rival and measure."""
    return {(one.method, one.rival, one.metric): one for one in found}
