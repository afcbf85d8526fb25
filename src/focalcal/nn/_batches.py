"""Batches of a loader, and what a model makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

#: From a batch to what the model is given (a tuple is spread, a dict is passed by name) and the labels.
Unpack = Callable[[Any], tuple[Any, Any]]


def device_of(model: torch.nn.Module) -> torch.device:
    """Return where a model's first parameter (or buffer) is."""
    held = next((tensor for tensors in (model.parameters(), model.buffers()) for tensor in tensors), None)
    return torch.device("cpu") if held is None else held.device


def logits_of(output: Any) -> Tensor:
    """Return the logits in what a model returned: a tensor, a tuple's first entry, or what is named so."""
    found = output["logits"] if isinstance(output, Mapping) and "logits" in output else output
    found = getattr(found, "logits", found)
    found = found[0] if isinstance(found, (tuple, list)) and found else found
    if not isinstance(found, Tensor):
        raise TypeError(
            "Expected the model to return logits as a tensor, as a tuple's first entry, or as .logits or "
            f"['logits'], got {type(output).__name__}. Wrap the model in one that does."
        )
    return found


def parts(batch: Any) -> tuple[Any, Any]:
    """Return inputs and labels of a pair, or of a dict with "labels"."""
    if isinstance(batch, Mapping) and "labels" in batch:
        return {name: value for name, value in batch.items() if name != "labels"}, batch["labels"]
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return batch[0], batch[1]
    what = f"{len(batch)} entries" if isinstance(batch, (tuple, list)) else type(batch).__name__
    raise TypeError(
        f"Expected batches (inputs, labels), or dicts with 'labels', got {what}. Pass "
        "unpack=lambda batch: (inputs, labels)."
    )


def moved(value: Any, device: torch.device | str) -> Any:
    """Return tensors, alone or in dicts, tuples and lists, on a device."""
    if hasattr(value, "to"):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: moved(entry, device) for name, entry in value.items()}
    if type(value) in (tuple, list):
        return type(value)(moved(entry, device) for entry in value)
    return value


def called(model: torch.nn.Module, inputs: Any) -> Any:
    """Call a model: a dict is passed by name, a tuple is spread."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)
