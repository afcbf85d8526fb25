"""The curvature of a network that was kept in a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from focalcal._settings import check_choice
from focalcal.curvature import Curvature, measure
from focalcal.experiments.checkpoints import load_weights, named_model
from focalcal.experiments.folders import LabelledInputs
from focalcal.nn import FocalLoss
from focalcal.nn._batches import logits_of


def measure_checkpoint(
    path: str | os.PathLike[str],
    model: str,
    inputs: LabelledInputs,
    *,
    arguments: Mapping[str, Any] | None = None,
    loss: str = "cross-entropy",
    gamma: float | None = None,
    device: str = "cpu",
    **options: Any,
) -> Curvature:
    """Measure the curvature of a loss at the weights that a file holds.

    Parameters
    ----------
    path : str or path-like
        As `load_weights` takes it.
    model, arguments
        As `named_model` takes them.
    inputs : LabelledInputs
        Of `open_inputs`.
    loss : {"cross-entropy", "focal"}
        The loss that was trained; cross-entropy is measured, too.
    gamma : float, optional
        Focal loss's γ. Default: 2.
    device : str
        Where to compute, e.g. "cuda".
    **options
        Of `focalcal.curvature.measure`.

    Returns
    -------
    Curvature
        As `focalcal.curvature.measure` returns it.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        For weights, a model, data and options that do not fit together.
    """
    criterion = _criterion(loss, gamma)
    network = named_model(model, arguments)
    load_weights(network, path)
    try:
        network.to(device)
    except (RuntimeError, AssertionError) as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"Expected a device that is here, such as cpu, got {device!r}: {said}") from error
    _check_fit(network, inputs, device)
    return measure(network, criterion, inputs, device=device, **options)


def _criterion(loss: str, gamma: float | None) -> torch.nn.Module:
    check_choice("loss", loss, ("cross-entropy", "focal"))
    if loss == "focal":
        return FocalLoss(2.0 if gamma is None else gamma)
    if gamma is not None:
        raise ValueError(
            f'Expected gamma with loss "focal" alone, got {gamma:g} with "{loss}". Leave it out.'
        )
    return torch.nn.CrossEntropyLoss()


def _check_fit(model: torch.nn.Module, inputs: LabelledInputs, device: str) -> None:
    """Check that the model takes the inputs and has a logit for each class."""
    x, _ = next(iter(inputs))
    shape = tuple(x.shape[1:])
    try:
        with torch.no_grad():
            logits = logits_of(model.eval()(x[:1].to(device)))
    except RuntimeError as error:
        said = str(error).splitlines()[0]
        raise ValueError(
            f"Expected inputs that the model takes, got rows of shape {shape}: {said}. Check the "
            "images' size and channels (--size, --mean, --std), and the model's arguments."
        ) from error
    if logits.dim() != 2 or logits.shape[1] < len(inputs.classes):
        raise ValueError(
            f"Expected logits of {len(inputs.classes)} classes, as the data have, got shape "
            f"{tuple(logits.shape)} for one row. Check the model's arguments and the folder."
        )
