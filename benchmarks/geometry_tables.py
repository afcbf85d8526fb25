"""The tables of `geometry.py`: means over seeds, paired differences, rank correlations."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from geometry_nets import Net
from scipy.stats import spearmanr
from scipy.stats import t as student

#: What is shown of a loss's curvature, and its heading.
CURVATURES = {
    "loss": "loss",
    "trace": "trace",
    "top": "largest eigenvalue",
    "frobenius": "Frobenius norm",
    "sharpness": "sharpness",
}
Found = dict[Net, dict]


def own(one: dict, name: str) -> float:
    return one["own"][name]


def divided(one: dict, name: str) -> float:
    return one["cooled"][name]


def common(one: dict, name: str) -> float:
    return one["common"][name]


def error(one: dict, when: str) -> float:
    return one["judged"][when]["ece"]


def mean_error(values: list[float]) -> str:
    """Return mean ± standard error over seeds."""
    spread = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{number(float(np.mean(values)))} ± {number(float(spread))}"


def number(value: float) -> str:
    """Return three digits."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}" if digits < 6 else f"{value:.2e}"


def gammas_of(found: Found) -> list[float]:
    return sorted({net.gamma for net in found})


def of_gamma(found: Found, gamma: float, pick: Callable[[dict], float]) -> list[float]:
    """Return one number a seed, in the seeds' order."""
    return [pick(found[net]) for net in sorted(found, key=lambda net: net.seed) if net.gamma == gamma]


def rows(found: Found, columns: dict[str, Callable[[dict], float]]) -> list[str]:
    """Return a table: one line a γ, mean ± standard error over seeds."""
    lines = [f"| γ | seeds | {' | '.join(columns)} |", f"| {' | '.join(['---'] * (len(columns) + 2))} |"]
    for gamma in gammas_of(found):
        values = [of_gamma(found, gamma, pick) for pick in columns.values()]
        lines.append(f"| {gamma:g} | {len(values[0])} | {' | '.join(map(mean_error, values))} |")
    return lines


def curvature_rows(found: Found, of: Callable[[dict, str], float]) -> list[str]:
    names = CURVATURES.items()
    return rows(found, {title: lambda one, name=name: of(one, name) for name, title in names})


def judged_rows(found: Found) -> list[str]:
    def at(when: str, name: str, scale: float = 1.0) -> Callable[[dict], float]:
        return lambda one: scale * one["judged"][when][name]

    return rows(
        found,
        {
            "training accuracy %": lambda one: 100 * one["training accuracy"],
            "accuracy %": at("before", "accuracy", 100),
            "NLL": at("before", "nll"),
            "ECE %": at("before", "ece", 100),
            "confidence − accuracy %": at("before", "gap", 100),
            "T": lambda one: one["judged"]["temperature"],
            "NLL, TS": at("after", "nll"),
            "ECE %, TS": at("after", "ece", 100),
        },
    )


def ratio_rows(found: Found) -> list[str]:
    """Return the ratio to γ = 0 with the same seed, geometric mean and 95 % interval of Student's over seeds."""
    picks = {
        f"{kind.__name__} {name}": (kind, name)
        for kind in (own, common)
        for name in ("trace", "top", "frobenius")
    }
    lines = [
        f"| γ | {' | '.join(picks)} | ECE − ECE(γ=0), points |",
        f"| {' | '.join(['---'] * (len(picks) + 2))} |",
    ]
    for gamma in gammas_of(found)[1:]:
        cells = []
        for kind, name in picks.values():
            pair = [of_gamma(found, g, lambda one, k=kind, n=name: k(one, n)) for g in (gamma, 0.0)]
            logs = np.log([a / b for a, b in zip(*pair, strict=False)])
            cells.append(
                " ".join(number(math.exp(v)) if i == 0 else v for i, v in enumerate(interval(logs, math.exp)))
            )
        shift = [of_gamma(found, g, lambda one: 100 * error(one, "before")) for g in (gamma, 0.0)]
        differences = np.array([a - b for a, b in zip(*shift, strict=False)])
        middle, low_high = interval(differences, lambda v: v)
        lines.append(f"| {gamma:g} | {' | '.join(cells)} | {middle:+.2f} {low_high} |")
    return lines


def interval(values: np.ndarray, back: Callable[[float], float]) -> tuple[float, str]:
    """Return a mean and, written, the ends of Student's 95 % interval."""
    middle, n = float(values.mean()), len(values)
    if n < 2:
        return middle, "[–]"
    margin = float(values.std(ddof=1) / math.sqrt(n) * student.ppf(0.975, n - 1))
    return middle, f"[{number(back(middle - margin))}, {number(back(middle + margin))}]"


def correlation(a: np.ndarray, b: np.ndarray, seeds: np.ndarray) -> str:
    """Return Spearman's ρ with a percentile interval of 2,000 bootstraps of nets within drawn seeds."""
    value = spearmanr(a, b).statistic
    rng, drawn = np.random.default_rng(0), []
    groups = [np.flatnonzero(seeds == seed) for seed in np.unique(seeds)]
    for _ in range(2000):
        chosen = np.concatenate(
            [rng.choice(groups[g], len(groups[g])) for g in rng.integers(len(groups), size=len(groups))]
        )
        if np.ptp(a[chosen]) and np.ptp(b[chosen]):
            drawn.append(spearmanr(a[chosen], b[chosen]).statistic)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def correlation_rows(found: Found) -> list[str]:
    lines = [
        "| across all nets | with ECE | with ECE, at equal γ | with \\|confidence − accuracy\\| | with ECE after TS |",
        f"|{' --- |' * 5}",
    ]
    nets, ones = list(found), list(found.values())
    seeds, gammas = (np.array([getattr(net, name) for net in nets]) for name in ("seed", "gamma"))
    ece, cooled_ece = (np.array([error(one, when) for one in ones]) for when in ("before", "after"))
    gap = np.array([abs(one["judged"]["before"]["gap"]) for one in ones])
    kinds = (own, common, divided) if all("cooled" in one for one in ones) else (own, common)
    for kind in kinds:
        for name in ("trace", "top"):
            of = np.array([kind(one, name) for one in ones])
            cells = [
                correlation(of, ece, seeds),
                correlation(within(np.log(of), gammas), within(ece, gammas), seeds),
                correlation(of, gap, seeds),
                correlation(of, cooled_ece, seeds),
            ]
            lines.append(f"| {kind.__name__} {name} | {' | '.join(cells)} |")
    return [*lines, f"| \\|confidence − accuracy\\| | {correlation(gap, ece, seeds)} | | | |"]


def within(values: np.ndarray, gammas: np.ndarray) -> np.ndarray:
    """Return deviations from the mean of each γ."""
    return values - np.array([values[gammas == gamma].mean() for gamma in gammas])


def cooled_rows(found: Found) -> list[str]:
    """Return cross-entropy's curvature before and after the division, and the ECE, over seeds."""
    columns: dict[str, Callable[[dict], float]] = {"T": lambda one: one["judged"]["temperature"]}
    for when, kind, word in (("before", "common", ""), ("after", "cooled", ", divided")):
        columns[f"ECE %{word}"] = lambda one, when=when: 100 * error(one, when)
        for name in ("trace", "top"):
            columns[f"{CURVATURES[name]}{word}"] = lambda one, kind=kind, name=name: one[kind][name]
    return rows({net: one for net, one in found.items() if "cooled" in one}, columns)
