"""An evaluation as a model card: metadata that the Hugging Face Hub reads, and a section in Markdown."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from focalcal.intervals.estimate import Estimate
    from focalcal.verdicts.evaluation import Evaluation

#: How each value is computed; {B} is the number of bins.
_FORMULAS = {
    "nll": "mean of −log p of the label, in nats",
    "brier": "mean of Σₖ (pₖ − yₖ)² over the classes",
    "accuracy": "share of rows whose label has the largest probability",
    "ece": "mean of \\|confidence − hit rate\\| of the predicted class over {B} equal-width bins",
    "ece_equal_mass": "the same over {B} bins of equal mass",
    "classwise_ece": "the ECE of each class's probability over {B} equal-width bins, averaged over classes",
    "ece_l2": "root of the mean squared gap over {B} equal-width bins, less what chance adds",
    "smooth_ece": "gap between confidence and hit rate, smoothed by a kernel of that width",
    "ks_error": "largest gap between summed confidences and summed hits, by growing confidence",
    "mean_gap": "mean confidence less accuracy; positive is over-confident",
    "aurc": "mean share of misses among the surest rows, over all shares kept",
}


def card_text(
    evaluation: Evaluation,
    titles: dict[str, str],
    *,
    model_name: str,
    task_type: str,
    dataset_type: str,
    dataset_name: str,
    dataset_split: str | None,
) -> str:
    """Return the text of `Evaluation.to_model_card`."""
    dataset = {"name": dataset_name, "type": dataset_type}
    dataset |= {} if dataset_split is None else {"split": dataset_split}
    words = {"model_name": model_name, "task_type": task_type}
    for name, text in (words | {f"dataset_{key}": value for key, value in dataset.items()}).items():
        if not isinstance(text, str) or not text.strip() or not text.isprintable():
            raise ValueError(
                f"Expected {name} as one line of text, got {text!r}. The Hub shows it as a name."
            )
    lines = ["---", "model-index:", f"- name: {_yaml(model_name)}", "  results:"]
    lines += ["  - task:", f"      type: {_yaml(task_type)}", "    dataset:"]
    lines += [f"      {key}: {_yaml(value)}" for key, value in dataset.items()]
    lines.append("    metrics:")
    for name, e in evaluation.items():
        if math.isfinite(e.value):
            lines += _metric(name, titles.get(name, name), e)
    of = dataset_name if dataset_split is None else f"{dataset_name}, split {dataset_split}"
    return "\n".join([*lines, "---", "", *_section(evaluation, titles, of), ""])


def _metric(name: str, title: str, e: Estimate) -> list[str]:
    """Return a metric of the model index; its interval is among the arguments."""
    numbers = {"low": e.low, "high": e.high, "level": e.level, "n": e.n}
    known = {key: value for key, value in numbers.items() if math.isfinite(value)}
    return [
        f"    - type: {_yaml(name)}",
        f"      name: {_yaml(title)}",
        f"      value: {_yaml(float(e.value))}",
        "      args:",
        *(f"        {key}: {_yaml(value)}" for key, value in known.items()),
        f"        method: {_yaml(e.method)}",
    ]


def _section(evaluation: Evaluation, titles: dict[str, str], of: str) -> list[str]:
    level = next(iter(evaluation.values())).level
    bins = len(evaluation.bins.edges) - 1
    rows = [
        f"| {titles.get(name, name)} | {e.value:.4f} | {e.low:.4f} to {e.high:.4f} | {e.n:,} "
        f"| {_FORMULAS[name].format(B=bins)} | {e.method} |"
        for name, e in evaluation.items()
    ]
    return [
        "## Calibration",
        "",
        f"Probabilities of {evaluation.n_classes} classes on {of}.",
        "",
        f"| metric | value | {level:.0%} interval | rows | value computed as | interval by |",
        "| --- | ---: | :---: | ---: | --- | --- |",
        *rows,
        "",
        "Calibration errors of few rows are too large by chance; their intervals allow for it, and may lie "
        "below the value. Computed with focalcal.",
    ]


def _yaml(value: Any) -> str:
    """Return a scalar as JSON, which is YAML; YAML 1.1 takes 1e-05 for a text, but not 1.0e-05."""
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, float) and "e" in text and "." not in text:
        return text.replace("e", ".0e")
    return text
