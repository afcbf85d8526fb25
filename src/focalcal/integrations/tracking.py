"""Evaluations in experiment trackers: numbers for any, with a diagram for MLflow, TensorBoard and W&B."""

from __future__ import annotations

import importlib
import importlib.util
import math
from typing import Any

from focalcal.plots import ReliabilityDisplay
from focalcal.verdicts.evaluation import Evaluation


def flatten(evaluation: Evaluation, prefix: str = "") -> dict[str, float]:
    """Return every metric, the ends of its interval, and the number of rows, by name.

    Parameters
    ----------
    evaluation : Evaluation
        What `focalcal.evaluate` returned.
    prefix : str
        Put before each name, such as "val/".

    Returns
    -------
    dict of str to float
        "nll", "nll_low", "nll_high", …, and "n". Numbers that are not finite are left out, as trackers
        refuse them or draw them at 0.

    Examples
    --------
    >>> from focalcal import evaluate
    >>> found = flatten(evaluate([0, 0, 1, 1], [0.25, 0.25, 0.75, 0.75]), prefix="val/")
    >>> found["val/ece"], found["val/accuracy_high"], found["val/n"]
    (0.25, 1.0, 4.0)
    """
    found = {"n": float(evaluation.n)}
    for name, e in evaluation.items():
        found |= {name: float(e.value), f"{name}_low": float(e.low), f"{name}_high": float(e.high)}
    return {f"{prefix}{name}": value for name, value in found.items() if math.isfinite(value)}


def log_mlflow(evaluation: Evaluation, *, step: int | None = None, prefix: str = "") -> None:
    """Log to MLflow's active run (one is started if there is none): numbers, and the diagram as an artefact.

    Parameters
    ----------
    evaluation, prefix
        As in `flatten`; the diagram is ``{prefix}reliability.png``, or ``{prefix}reliability_{step}.png``.
    step : int, optional
        Step or epoch.

    Raises
    ------
    ModuleNotFoundError
        If MLflow is not installed.
    """
    mlflow = _tracker("mlflow")
    mlflow.log_metrics(flatten(evaluation, prefix), step=step)
    if (figure := _diagram(evaluation)) is not None:
        end = "" if step is None else f"_{step}"
        mlflow.log_figure(figure, f"{prefix}reliability{end}.png")


def log_tensorboard(
    writer: Any, evaluation: Evaluation, step: int | None = None, *, prefix: str = ""
) -> None:
    """Log to TensorBoard: numbers, and the diagram as the image ``{prefix}reliability``.

    Parameters
    ----------
    writer : torch.utils.tensorboard.SummaryWriter
        Or what has its `add_scalar` and `add_figure`.
    evaluation, prefix
        As in `flatten`.
    step : int, optional
        Step or epoch.
    """
    for name, value in flatten(evaluation, prefix).items():
        writer.add_scalar(name, value, step)
    if (figure := _diagram(evaluation)) is not None:
        writer.add_figure(f"{prefix}reliability", figure, step)


def log_wandb(run: Any, evaluation: Evaluation, *, step: int | None = None, prefix: str = "") -> None:
    """Log to a run of Weights & Biases: numbers, and the diagram as the image ``{prefix}reliability``.

    Parameters
    ----------
    run : wandb.Run
        What ``wandb.init`` returned.
    evaluation, prefix
        As in `flatten`.
    step : int, optional
        Step or epoch.

    Raises
    ------
    ModuleNotFoundError
        If W&B is not installed.
    """
    found: dict[str, Any] = dict(flatten(evaluation, prefix))
    if (figure := _diagram(evaluation)) is not None:
        found[f"{prefix}reliability"] = _tracker("wandb").Image(figure)
    run.log(found, step=step)


def _tracker(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"focalcal.integrations.tracking needs {name}: pip install {name}", name=error.name
        ) from error


def _diagram(evaluation: Evaluation) -> Any:
    """Return the reliability diagram on a figure that pyplot does not keep; None without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 5.4), layout="constrained")
    return ReliabilityDisplay.from_evaluation(evaluation, ax=figure.subplots()).figure_
