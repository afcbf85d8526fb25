"""Curvature along training: `CurvatureRecorder`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from focalcal._settings import check_count
from focalcal.nn._batches import device_of

#: Entries of a list that become numbers of their own: some eigenvalues do, a density does not.
_COLUMNS = 10


class CurvatureRecorder:
    """Measure a model's curvature at every k-th step of its training.

    ``recorder = CurvatureRecorder(criterion, loader, every=100)``; after each step ``recorder.step(model)``

    Parameters
    ----------
    loss : callable
        The loss whose curvature is wanted, as in `LossSurface`.
    loader : iterable of batches
        The data, as in `LossSurface`: the same at every measurement.
    every : int
        Steps between measurements.
    measure : callable, optional
        Of (model, loss, loader, **options); returns a dict of numbers, or what has `to_dict`. By default
        `focalcal.curvature.measure`.
    **options
        Passed to it.

    Attributes
    ----------
    history : list of dict
        One flat dict a measurement, "step" first. Names of what lies within one another are joined by "/", as
        "training/trace/value" and "training/top/values/0"; lists of more than ten entries stay as they are.

    Raises
    ------
    ValueError
        For another `every`.
    TypeError
        For a measurement that is not a dict.

    Notes
    -----
    Training goes on as if nothing had been measured: random numbers drawn meanwhile (a DataLoader draws one)
    are given back. Distributed, every rank measures its own loader unless `measure` is told otherwise.

    Examples
    --------
    >>> norm = lambda model, loss, loader: {"norm": {"weight": model.weight.norm().item()}}
    >>> recorder = CurvatureRecorder(None, [], every=2, measure=norm)
    >>> model = torch.nn.Linear(1, 1)
    >>> _ = torch.nn.init.ones_(model.weight)
    >>> for _ in range(4):
    ...     _ = recorder.step(model)
    >>> recorder.history
    [{'step': 2, 'norm/weight': 1.0}, {'step': 4, 'norm/weight': 1.0}]
    """

    def __init__(
        self,
        loss: Any,
        loader: Iterable[Any],
        *,
        every: int = 1,
        measure: Callable[..., Any] | None = None,
        **options: Any,
    ) -> None:
        self.loss, self.loader, self.every = loss, loader, check_count("every", every)
        self.measure, self.options = measure, options
        self.steps = 0
        self.history: list[dict[str, Any]] = []

    def step(self, model: torch.nn.Module) -> dict[str, Any] | None:
        """Count a step; at every k-th measure, and return what was added to the history."""
        self.steps += 1
        if self.steps % self.every:
            return None
        # the package imports this module before it has its own
        measure = self.measure or importlib.import_module("focalcal.curvature").measure
        device = device_of(model)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            found = measure(model, self.loss, self.loader, **self.options)
        found = found.to_dict() if hasattr(found, "to_dict") else found
        if not isinstance(found, Mapping):
            raise TypeError(
                f"Expected measure to return a dict or what has to_dict, got {type(found).__name__}. Return "
                '{"trace": 1.0}, for example.'
            )
        self.history.append({"step": self.steps} | dict(_flat("", found)))
        return self.history[-1]

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps and the history, as plain values."""
        return {"steps": self.steps, "history": [dict(row) for row in self.history]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.steps, self.history = state["steps"], [dict(row) for row in state["history"]]


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of the leaves of dicts and of short lists and tuples."""
    if isinstance(value, Mapping):
        entries: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, (list, tuple)) and len(value) <= _COLUMNS:
        entries = enumerate(value)
    else:
        yield name, value.item() if hasattr(value, "item") else value
        return
    for key, entry in entries:
        yield from _flat(f"{name}/{key}" if name else str(key), entry)
