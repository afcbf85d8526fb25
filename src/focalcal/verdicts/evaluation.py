"""All metrics of one set of predictions, as one object."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from focalcal.intervals.estimate import Estimate
from focalcal.intervals.resample import estimate_gap_sum, estimate_mean, estimate_share, share_interval
from focalcal.metrics.binned_errors import estimate_binned
from focalcal.metrics.ks import estimate_ks, estimate_mean_gap
from focalcal.metrics.selective import selective_of
from focalcal.metrics.smooth import estimate_smooth
from focalcal.sums.bins import BinSums
from focalcal.sums.events import cells_of
from focalcal.sums.judging import Judged
from focalcal.verdicts.model_card import card_text

if TYPE_CHECKING:
    from focalcal.verdicts.segments import Segment

TITLES = {
    "nll": "NLL (nats)",
    "brier": "Brier score",
    "accuracy": "accuracy",
    "ece": "ECE",
    "ece_equal_mass": "ECE, equal mass",
    "classwise_ece": "class-wise ECE",
    "ece_l2": "ECE, L2, debiased",
    "smooth_ece": "smooth ECE",
    "ks_error": "KS error",
    "mean_gap": "confidence - acc.",
    "aurc": "AURC",
}


@dataclass(frozen=True, eq=False)
class Evaluation(Mapping[str, Estimate]):
    """Every metric of one set of predictions, with intervals: a mapping from name to `Estimate`.

    Attributes
    ----------
    metrics : dict of str to Estimate
        "nll", "brier", "accuracy", "ece", "ece_equal_mass", "classwise_ece"; with ``metrics="all"`` also
        "ece_l2" (debiased), "smooth_ece", "ks_error", "mean_gap" (mean confidence less accuracy), "aurc".
    n, n_classes : int
        Rows and classes.
    bins : BinSums
        The sums behind the reliability diagram of the top class (equal-width bins).
    classwise : BinSums or None
        The same for every class's probability, shape (K, B); None for a segment.
    segments : tuple of Segment
        With `by`: each group's own evaluation, the surest miscalibration first.

    Examples
    --------
    >>> from focalcal import evaluate
    >>> result = evaluate([0, 0, 1, 1], [0.25, 0.25, 0.75, 0.75])
    >>> result["accuracy"].value, result["ece"].value, round(result["nll"].value, 4)
    (1.0, 0.25, 0.2877)
    """

    metrics: dict[str, Estimate]
    n: int
    n_classes: int
    bins: BinSums
    classwise: BinSums | None = None
    segments: tuple[Segment, ...] = ()

    def __getitem__(self, name: str) -> Estimate:
        return self.metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: metrics, n, n_classes, bins; a number that is not finite is None."""
        metrics = {name: estimate.to_dict() for name, estimate in self.metrics.items()}
        bins = self.bins.to_dict()
        document = {"n": self.n, "n_classes": self.n_classes, "metrics": _finite(metrics), "bins": bins}
        return document | ({"segments": [one.to_dict() for one in self.segments]} if self.segments else {})

    def bin_table(self, interval: str = "wilson") -> list[dict[str, float]]:
        """Return the occupied bins of the reliability diagram as rows, each hit rate with its interval.

        Parameters
        ----------
        interval : {"wilson", "clopper-pearson"}
            The latter never covers less than it says, and is wider.

        Examples
        --------
        >>> from focalcal import evaluate
        >>> evaluate([1, 1, 0, 1], [0.75] * 4).bin_table()[0]["hit_rate"]
        0.75
        """
        level = next(iter(self.metrics.values())).level
        return self.bins.table(share_interval(interval), level)

    def to_model_card(
        self,
        *,
        model_name: str,
        task_type: str,
        dataset_type: str,
        dataset_name: str,
        dataset_split: str | None = None,
    ) -> str:
        """Return a Hugging Face model card: metadata with every metric, and a section with a table.

        Parameters
        ----------
        model_name : str
            As in the Hub's model index.
        task_type : str
            The Hub's name of the task, such as "image-classification".
        dataset_type, dataset_name : str
            The dataset's name on the Hub, and a readable one.
        dataset_split : str, optional
            Such as "test".

        Returns
        -------
        str
            YAML and Markdown, ready to be a README.md. ``huggingface_hub.ModelCard(text)`` reads it: its
            ``data.eval_results`` hold the values, with interval and rows in `metric_args`, and its ``text``
            the section, both to be added to another card. A value that is not finite is in the table alone.

        Raises
        ------
        ValueError
            For a name that is not one line of text.

        Examples
        --------
        >>> from focalcal import evaluate
        >>> names = {"model_name": "tiny", "dataset_type": "four", "dataset_name": "Four rows"}
        >>> result = evaluate([0, 0, 1, 1], [0.25, 0.25, 0.75, 0.75])
        >>> text = result.to_model_card(task_type="tabular-classification", **names)
        >>> next(line for line in text.splitlines() if line.startswith("| NLL"))[:51]
        '| NLL (nats) | 0.2877 | 0.2877 to 0.2877 | 4 | mean'
        """
        return card_text(
            self,
            TITLES,
            model_name=model_name,
            task_type=task_type,
            dataset_type=dataset_type,
            dataset_name=dataset_name,
            dataset_split=dataset_split,
        )

    def __str__(self) -> str:
        level = next(iter(self.metrics.values())).level
        head = f"{'':16} {'value':>8} {f'{level:.0%} interval':>20} {'stderr':>8}"
        rows = [_row(TITLES.get(name, name), estimate) for name, estimate in self.metrics.items()]
        return "\n".join([head, *rows, f"n = {self.n}, {self.n_classes} classes"])

    __repr__ = __str__


def _row(title: str, e: Estimate) -> str:
    return f"{title:16} {e.value:8.4f} {f'[{e.low:.4f}, {e.high:.4f}]':>20} {e.stderr:8.4f}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def evaluation_of(sums: Judged, n_classes: int, level: float, *, more: bool = False) -> Evaluation:
    """Return every metric that the sums of a pass hold."""
    n = sums.nll.count
    metrics = {
        "nll": estimate_mean(sums.nll, n, level),
        "brier": estimate_mean(sums.brier, n, level),
        "accuracy": estimate_share(sums.accuracy, n, level),
        "ece": estimate_gap_sum(sums.top, n, level),
    }
    if sums.confidences is not None:
        by_mass = sums.confidences.equal_mass(len(sums.top.edges) - 1)
        metrics["ece_equal_mass"] = estimate_gap_sum(by_mass, n, level)
    if sums.classwise is not None:
        metrics["classwise_ece"] = estimate_gap_sum(sums.classwise, n, level)
    if more:
        metrics |= _more(sums, n, level)
    return Evaluation(metrics, n, n_classes, sums.top, sums.classwise)


def _more(sums: Judged, n: int, level: float) -> dict[str, Estimate]:
    """Return the metrics that cost more than a pass over bins."""
    found = {"ece_l2": estimate_binned(sums.top, n, level, "l2", debiased=True)}
    if sums.confidences is not None:
        cells = cells_of(sums.confidences)
        found |= {
            "smooth_ece": estimate_smooth(cells, n, level),
            "ks_error": estimate_ks(cells, n, level),
            "mean_gap": estimate_mean_gap(cells, n, level),
            "aurc": selective_of(cells, n, level).aurc,
        }
    return found
