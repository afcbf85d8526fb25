"""Every check of options and numbers that a caller passes, and every message: expected, got, what to do."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

#: Values of a column that may part the rows.
MAX_SEGMENTS = 1000


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    """Check an option that has a closed list of values."""
    if value not in choices:
        raise ValueError(f"Expected {name} to be one of {', '.join(map(repr, choices))}, got {value!r}.")
    return value


def check_method_criterion(method: str, criterion: str, with_criterion: tuple[str, ...]) -> None:
    """Check that a method of fitting can minimise what is asked for."""
    if criterion != "nll" and method not in with_criterion:
        raise ValueError(
            f"Expected no criterion but nll with the method {method!r}, got {criterion!r}. Leave it out, or "
            f"choose one of the methods {', '.join(with_criterion)}."
        )


def check_temperature(temperature: float) -> float:
    """Check that a temperature is positive and finite."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"Expected a finite temperature > 0, got {temperature}.")
    return float(temperature)


def check_gamma(gamma: float) -> float:
    """Check that a focal parameter lies where the focal calibration map exists."""
    if not (math.isfinite(gamma) and gamma >= -1):
        raise ValueError(
            f"Expected a finite gamma >= -1, got {gamma}. Below -1 the focal calibration map has a pole."
        )
    return float(gamma)


def check_level(level: float) -> float:
    """Check the coverage that an interval aims at."""
    if not 0 < level < 1:
        raise ValueError(f"Expected level between 0 and 1, e.g. 0.95, got {level}.")
    return float(level)


def check_bins(bins: int) -> int:
    """Check a number of bins."""
    return check_count("bins", bins)


def check_count(name: str, count: int) -> int:
    """Check a number of things."""
    if isinstance(count, bool) or int(count) != count or count < 1:
        raise ValueError(f"Expected {name} to be a whole number >= 1, got {count!r}.")
    return int(count)


def check_several(name: str, count: int) -> int:
    """Check a number of things of which one is too few."""
    if check_count(name, count) < 2:
        raise ValueError(f"Expected {name} to be at least 2, got {count}. The default does for most data.")
    return int(count)


def check_share(name: str, share: float) -> float:
    """Check a share of rows."""
    if not 0 < share <= 1:
        raise ValueError(f"Expected {name} above 0 and at most 1, got {share}.")
    return float(share)


def check_mixed_share(share: float) -> float:
    """Check a share of the uniform distribution."""
    if isinstance(share, bool) or not 0 <= share < 1:
        raise ValueError(f"Expected share from 0 to below 1, got {share!r}. Choose 0.001, for example.")
    return float(share)


def check_gap(gap: float) -> float:
    """Check a gap between confidence and hit rate."""
    if not 0 < gap < 1:
        raise ValueError(f"Expected gap between 0 and 1, e.g. 0.02 for two points, got {gap}.")
    return float(gap)


def check_bandwidth(bandwidth: float) -> float:
    """Check the width of a kernel."""
    if not (math.isfinite(bandwidth) and bandwidth > 0):
        raise ValueError(f"Expected a finite bandwidth > 0, e.g. 0.01, got {bandwidth}.")
    return float(bandwidth)


def check_positive(name: str, value: float) -> float:
    """Check a strength, a radius or a length."""
    if isinstance(value, bool) or not (math.isfinite(value) and value > 0):
        raise ValueError(f"Expected {name} finite and above 0, got {value!r}. Choose 0.01, for example.")
    return float(value)


def check_shape(name: str, value: Any, shape: tuple[int, ...]) -> None:
    """Check the shape of a fitted parameter, which a file that was read may have lost."""
    found = getattr(value, "shape", ())
    if found != shape:
        raise ValueError(f"Expected {name} of shape {shape}, got {found}. Fit again.")


def check_range(name: str, value: Any, low: float, high: float) -> None:
    """Check that a fitted parameter, or each number of it, is in a closed range."""
    least, most = (float(value.min()), float(value.max())) if hasattr(value, "min") else (value, value)
    if not low <= least <= most <= high:
        raise ValueError(f"Expected {name} from {low:g} to {high:g}, got {least:g} to {most:g}. Fit again.")


def check_neighbours(count: int) -> None:
    """Check that a row is not alone, where every row is judged by the others."""
    if count < 2:
        raise ValueError(
            f"Expected at least 2 rows with a weight above 0, as each is judged by the others, got {count}. "
            "Use ece or ks_error."
        )


def check_top_class(of_class: Any) -> None:
    """Check that no single class is asked for where the whole vector is judged."""
    if of_class is not None:
        raise ValueError(
            f"Expected no of_class beside what judges the probabilities of all classes, got {of_class!r}. "
            'Leave it out (or, in decompose, recalibrate by "isotonic").'
        )


def check_folds(folds: int, n: int) -> int:
    """Check a number of folds."""
    if check_count("folds", folds) < 2 or folds > n:
        raise ValueError(f"Expected folds between 2 and the {n} rows, got {folds}.")
    return folds


def check_clusters(count: int) -> None:
    """Check that the spread between clusters can be seen."""
    if count < 2:
        raise ValueError(
            f"Expected at least 2 clusters, got {count}: rows that all belong together (one image, one value "
            "of cluster) say nothing about the next ones. Pass more of them, or flatten the rows yourself."
        )


def check_fold_clusters(clusters: int, folds: int) -> None:
    """Check that clusters can be dealt out to folds."""
    if clusters < folds:
        raise ValueError(
            f"Expected at least {folds} clusters, so that each fold has one, got {clusters}. Pass more of "
            "them, or leave cluster out."
        )


def check_segments(values: Iterable[Any]) -> None:
    """Check that a column does not part the rows into too many segments."""
    first = list(islice(values, MAX_SEGMENTS + 1))
    if len(first) > MAX_SEGMENTS:
        raise ValueError(
            f"Expected at most {MAX_SEGMENTS:,} different values in the column given as by (--by), got more: "
            f"{', '.join(map(repr, first[:3]))}, …. Name a column with fewer values."
        )


def check_debiased(norm: str, debiased: bool) -> None:
    """Check that a norm has a debiased form."""
    if debiased and norm == "max":
        raise ValueError('Expected norm="l1" or "l2" with debiased=True, got "max", whose bias is not known.')


def check_no_columns(selection: Mapping[str, Any]) -> None:
    """Check that no columns are named where there is no table."""
    named = [name for name, value in selection.items() if value is not None]
    if named:
        raise ValueError(f"Expected a table for --{named[0]}, got none. Name the file first.")


def check_evaluations(evaluations: Any) -> None:
    """Check that a report has something to report."""
    if not isinstance(evaluations, Mapping) or not evaluations or "ece" in evaluations:
        raise ValueError(
            f"Expected a dict of names to evaluations, not empty, got {type(evaluations).__name__}. "
            'Pass {"before": evaluate(...), "after": evaluate(...)}.'
        )


def check_class_names(classes: Any, n_classes: int) -> None:
    """Check that a report's names of classes are one for each class."""
    if classes is not None and len(classes) != n_classes:
        raise ValueError(
            f"Expected classes to name each of the {n_classes} classes, got {len(classes)} names. "
            "Pass them in the order of the columns."
        )


def optional_module(module: str, who: str, extra: str) -> Any:
    """Import a module of an optional dependency, or say how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f"{who} needs {package}: pip install 'focalcal[{extra}]'") from error


def check_candidates(methods: Any) -> tuple[Any, ...]:
    """Check what `fit_best` is to choose among."""
    found = tuple(methods) if isinstance(methods, Iterable) and not isinstance(methods, str) else ()
    if not found or not all(hasattr(one, "_cross_fit") and not isinstance(one, type) for one in found):
        raise ValueError(
            f"Expected methods as unfitted calibrators, the simplest first, got {methods!r}. Pass e.g. "
            "[TemperatureScaling(), FocalMatrixScaling()]."
        )
    return found
