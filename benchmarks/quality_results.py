"""The runs of `quality.py` as arrays: means, ranks, ratios and paired differences."""

from __future__ import annotations

import warnings
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

#: The peer whose fit each method's time is compared with, and how many of its fits it may take.
COUNTERPARTS = {
    "TS": ("ts-mix", 1),
    "StructuredVectorScaling": ("svs", 1),
    "StructuredMatrixScaling": ("sms", 1),
    "auto": ("sms", 5),
}

LOSSES = ("nll", "brier", "ece")  # in the order of the rows' losses


class Results:
    """Runs as arrays with an axis for files, one for splits (or draws) and one for methods; NaN: it failed."""

    def __init__(self, runs: list[dict], folder: Path) -> None:
        self.runs, self.folder = runs, folder
        self.files = list(dict.fromkeys(run["file"] for run in runs))
        self.methods = list(dict.fromkeys(run["method"] for run in runs))
        self.sizes = sorted({run["size"] for run in runs} - {None})
        self._by_key = {(r["file"], r["method"], r["size"], r["split"] + r["draw"]): r for r in runs}

    def array(self, measure: str, size: int | None = None, part: int = 0) -> np.ndarray:
        """Return a measure of all runs of a size, (F, S, M); `part` 1 is its standard error."""
        numbers = sorted({key[3] for key in self._by_key if key[2] == size})
        out = np.full((len(self.files), len(numbers), len(self.methods)), np.nan)
        for i, file in enumerate(self.files):
            for j, number in enumerate(numbers):
                for k, method in enumerate(self.methods):
                    value = self._by_key[file, method, size, number].get(measure, np.nan)
                    out[i, j, k] = value[part] if isinstance(value, list | tuple) else value
        return out

    def log_ratio(self, measure: str, reference: str) -> np.ndarray:
        """Return the mean over splits of log(measure / the reference's), (F, M)."""
        with np.errstate(invalid="ignore", divide="ignore"):
            logs = np.log(self.array(measure))
        return mean(logs - self.column(logs, reference), 1)

    def column(self, values: np.ndarray, method: str) -> np.ndarray:
        """Return one method's values with a last axis of 1; NaN if the method did not run."""
        if method not in self.methods:
            return np.full((*values.shape[:-1], 1), np.nan)
        return values[..., [self.methods.index(method)]]

    def value(self, values: np.ndarray, method: str) -> float:
        """Return one method's entry of (M,), NaN if it did not run."""
        return float(self.column(values, method)[0])

    @cached_property
    def ranks(self) -> np.ndarray:
        """Mean rank in NLL over files and splits, (M,); a method that failed is last."""
        nll = self.array("nll")
        return rankdata(np.where(np.isnan(nll), np.inf, nll), axis=2).mean(axis=(0, 1))

    def paired(self, method: str, reference: str) -> np.ndarray:
        """Return method − reference on the fixed split for each loss: mean and standard error, (F, 3, 2)."""
        out = np.full((len(self.files), len(LOSSES), 2), np.nan)
        for i, file in enumerate(self.files):
            paths = [self.folder / f"{file}.{name}.npy" for name in (method, reference)]
            runs = [self._by_key.get((file, name, None, 0)) for name in (method, reference)]
            if all(run is not None and "failed" not in run for run in runs):
                own, other = (np.load(path) for path in paths)
                for j in range(len(LOSSES)):
                    with np.errstate(invalid="ignore"):
                        out[i, j] = mean_and_error(own[j] - other[j], own[3])
        return out

    def beyond(self, method: str, reference: str) -> tuple[list[str], list[str]]:
        """Return the files where a method's NLL is lower, and higher, by over two paired standard errors."""
        change, error = self.paired(method, reference)[:, 0].T
        pairs = list(zip(self.files, change, np.nan_to_num(error), strict=True))  # an infinite loss has none
        return [f for f, c, e in pairs if c < -2 * e], [f for f, c, e in pairs if c > 2 * e]

    def small_ratio(self, size: int) -> np.ndarray:
        """Return log(NLL / the better of TS and SMS), averaged over the draws, (F, M)."""
        logs = mean(np.log(self.array("nll", size)), 1)
        return logs - np.fmin(self.column(logs, "TS"), self.column(logs, "sms"))

    def time_ratio(self, method: str) -> np.ndarray:
        """Return the median over splits of a fit's time to its counterpart's beside it, (F,)."""
        ratio = self.array("seconds") / self.array("counterpart")
        return self.column(median(ratio, 1), method)[:, 0]


def mean_and_error(values: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Return a mean and its standard error; rows of a group count as dependent, groups as independent."""
    centre = values.mean()
    sums = np.bincount(np.unique(groups, return_inverse=True)[1], values - centre)
    return float(centre), float(np.sqrt(len(sums) / (len(sums) - 1) * (sums**2).sum()) / len(values))


def mean(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Average what did not fail."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all of it failed
        return np.nanmean(values, axis)


def median(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmedian(values, axis)


def error_of_mean(values: np.ndarray) -> np.ndarray:
    """Return the standard error of a mean over files, (F, M) to (M,)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanstd(values, axis=0, ddof=1) / np.sqrt((~np.isnan(values)).sum(axis=0))
