"""Callbacks for Lightning: `CalibrationCallback` after validation, `CurvatureCallback` along training."""

from __future__ import annotations

import importlib
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np
from sklearn.base import clone

from focalcal._settings import check_bins
from focalcal._validate import CalibrationWarning, class_count
from focalcal.calibrators import Calibrator, FocalTemperatureScaling, artefact, load
from focalcal.integrations.batches import Batch, as_batch, halves_of, stacked
from focalcal.integrations.judge import Judge
from focalcal.verdicts.evaluation import Evaluation


def _callback() -> Any:
    """Return the base class of callbacks, of the package that is in use if one is already."""
    for package in sorted(
        ("lightning.pytorch", "pytorch_lightning"), key=lambda name: name not in sys.modules
    ):
        try:
            return importlib.import_module(package).Callback
        except ModuleNotFoundError:
            continue
    raise ModuleNotFoundError(
        "focalcal.integrations.lightning needs lightning: pip install lightning", name="lightning"
    )


class CalibrationCallback(_callback()):  # type: ignore[misc]
    r"""Judge calibration after every validation epoch, and fit a calibrator to its logits.

    Parameters
    ----------
    calibrator : unfitted calibrator of logits, optional
        What is fitted; by default `focalcal.FocalTemperatureScaling`. Its `classes` name the columns.
    logits : callable, optional
        From what `validation_step` returned and the batch to logits (N, K, d1, …) and class indices
        (N, d1, …). By default `validation_step` returns a dict with "logits" and "labels" (or "target").
    loss : str, optional
        Attribute of the LightningModule that holds a loss with `update`, such as `focalcal.nn.AdaFocalLoss`:
        in `Trainer.fit` it is updated with the logits of each validation epoch.
    dataloader : int
        Which of several validation dataloaders to take; a Trainer has one such callback.
    bins : int
        Bins of the calibration errors.
    ignore_index : int
        Rows with this label are left out.

    Attributes
    ----------
    calibrator_ : calibrator or None
        Fitted on all rows of the last validation epoch. It is saved in checkpoints, as plain values.
    evaluations_ : dict of str to Evaluation
        "raw" and "calibrated", with intervals; empty before the first epoch.

    Raises
    ------
    ValueError
        For a calibrator of probabilities, no logits, less than two rows (or images) a validation epoch, or
        logits and labels that cannot be right.

    Warns
    -----
    CalibrationWarning
        For what the fit on all rows says of itself.

    Notes
    -----
    Logs "val_nll" (nats), "val_ece", "val_nll_calibrated", "val_ece_calibrated" and the calibrator's
    parameters, such as "temperature" and "gamma". A calibrator looks too good on the rows of its own fit, so
    the calibrated numbers are cross-fitted: every other row (or image) is one half, and each half is judged
    with a calibrator fitted on the other. `calibrator_` and the logged parameters come from all rows. A
    validation set that has also chosen the epoch still flatters it: report on other data.

    The rows of an epoch are kept on the CPU in their precision (bfloat16 as float32), n × K numbers; a fit
    needs as much again. With several ranks the first gathers the rows (under NCCL through its GPU), fits for
    all and sends the result; Lightning's sampler repeats a few rows to give all ranks as many. The loss puts
    the ranks' confidences together itself. Sanity checks are skipped.

    Examples
    --------
    ``Trainer(callbacks=[CalibrationCallback()])``

    >>> callback = CalibrationCallback(logits=lambda outputs, batch: (outputs, batch["label"]))
    >>> callback.calibrator_ is None
    True
    """

    calibrator_: Calibrator | None
    evaluations_: dict[str, Evaluation]

    def __init__(
        self,
        calibrator: Calibrator | None = None,
        *,
        logits: Callable[[Any, Any], tuple[Any, Any]] | None = None,
        loss: str | None = None,
        dataloader: int = 0,
        bins: int = 15,
        ignore_index: int = -100,
    ) -> None:
        self.calibrator = FocalTemperatureScaling() if calibrator is None else calibrator
        if self.calibrator.input != "logits":
            raise ValueError(
                f'Expected a calibrator with input="logits", got {self.calibrator.input!r}. The logits of '
                "validation_step are what it is fitted to."
            )
        self.logits, self.loss, self.dataloader = logits, loss, dataloader
        self.bins, self.ignore_index = check_bins(bins), ignore_index
        self.calibrator_, self.evaluations_ = None, {}
        self._batches: list[Batch] = []

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Check that the loss is there before the first epoch is spent."""
        loss = None if self.loss is None else attrgetter(self.loss)(pl_module)
        if loss is not None and not hasattr(loss, "update"):
            raise ValueError(
                f"Expected a loss with update in the attribute {self.loss!r}, got {type(loss).__name__}. Use "
                "AdaFocalLoss, or leave loss out."
            )

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin anew."""
        self._batches = []

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the rows of a batch."""
        if trainer.sanity_checking or dataloader_idx != self.dataloader:
            return
        found = (self.logits or _logits_and_labels)(outputs, batch)
        rows = as_batch(*found, self.ignore_index)
        # a copy: the tensors may be parts of larger ones, or be written to
        self._batches.append(Batch(rows.scores.copy(), rows.labels.copy(), rows.cluster))

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Judge the rows, fit the calibrator, update the loss."""
        if trainer.sanity_checking:
            return
        batches, self._batches = self._batches, []
        self.evaluations_, saved = _on_first_rank(self._judged, batches)
        self.calibrator_ = _restored(saved)
        if self.loss is not None and trainer.state.fn == "fit":
            _update(attrgetter(self.loss)(pl_module), batches, pl_module.device)
        raw, calibrated = self.evaluations_["raw"], self.evaluations_["calibrated"]
        values = {f"val_{name}": raw[name].value for name in ("nll", "ece")}
        values |= {f"val_{name}_calibrated": calibrated[name].value for name in ("nll", "ece")}
        values |= {one.name: one.value for one in artefact.parameters(saved) if one.value is not None}
        pl_module.log_dict(values, sync_dist=True)

    def state_dict(self) -> dict[str, Any]:
        """Return the fitted calibrator as plain values, for the checkpoint."""
        return {} if self.calibrator_ is None else {"calibrator": self.calibrator_.to_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the fitted calibrator from a checkpoint."""
        self.calibrator_ = _restored(state_dict["calibrator"])

    def _judged(self, batches: list[Batch]) -> tuple[dict[str, Evaluation], dict[str, Any]]:
        """Return the raw and the cross-fitted evaluation, and the calibrator fitted on all rows."""
        halves = halves_of(batches)
        if not all(halves):
            raise ValueError(
                f"Expected at least 2 rows (or images) of validation dataloader {self.dataloader}, to fit on "
                "one half and judge on the other, got fewer. Check dataloader and ignore_index."
            )
        judge = Judge(class_count(halves[0][0].scores), "logits", self.bins)
        nothing = np.zeros(judge.size)
        raw = sum(map(judge.sums, batches), nothing)  # which checks the labels
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CalibrationWarning)  # said of the fit on all rows
            fitted = [self._fitted(half, judge.n_classes) for half in halves]
        mapped = (
            judge.sums(Batch(other.transform(batch.scores), batch.labels, batch.cluster))
            for half, other in zip(halves, reversed(fitted), strict=True)
            for batch in half
        )
        evaluations = {"raw": judge.evaluation(raw), "calibrated": judge.evaluation(sum(mapped, nothing))}
        return evaluations, self._fitted(batches, judge.n_classes).to_dict()

    def _fitted(self, batches: list[Batch], n_classes: int) -> Calibrator:
        calibrator: Calibrator = clone(self.calibrator)
        classes = np.arange(n_classes) if calibrator.classes is None else np.asarray(calibrator.classes)
        scores, labels = stacked(batches)
        # a wrong number of names is the calibrator's to refuse
        named = classes[labels] if len(classes) == n_classes else labels
        calibrator.classes = classes
        return calibrator.fit(scores, named)


class CurvatureCallback(_callback()):  # type: ignore[misc]
    """Record curvature along training, and log it.

    Parameters
    ----------
    recorder : focalcal.curvature.CurvatureRecorder
        Counts training batches; its history and count are saved in checkpoints. The LightningModule is the
        model: its `forward` returns logits.
    prefix : str
        Put before the names of the numbers that are logged.

    Examples
    --------
    ``Trainer(callbacks=[CurvatureCallback(CurvatureRecorder(criterion, loader, every=100))])``
    """

    def __init__(self, recorder: Any, *, prefix: str = "curvature/") -> None:
        self.recorder, self.prefix = recorder, prefix

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch, and log what was measured."""
        row = self.recorder.step(pl_module) or {}
        numbers = {name: value for name, value in row.items() if isinstance(value, (int, float))}
        numbers.pop("step", None)
        pl_module.log_dict({f"{self.prefix}{name}": float(value) for name, value in numbers.items()})

    def state_dict(self) -> dict[str, Any]:
        """Return the recorder's state, for the checkpoint."""
        found: dict[str, Any] = self.recorder.state_dict()
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the recorder's state from a checkpoint."""
        self.recorder.load_state_dict(state_dict)


def _logits_and_labels(outputs: Any, batch: Any) -> tuple[Any, Any]:
    names = set(outputs) if isinstance(outputs, Mapping) else set()
    label = names & {"labels", "target"}
    if "logits" not in names or len(label) != 1:
        got = ", ".join(sorted(map(str, names))) or type(outputs).__name__
        raise ValueError(
            f'Expected validation_step to return a dict with "logits" and "labels" (or "target"), got {got}. '
            "Or pass CalibrationCallback(logits=...), from its outputs and the batch to logits and labels."
        )
    return outputs["logits"], outputs[label.pop()]


def _update(loss: Any, batches: list[Batch], device: Any) -> None:
    """Show a loss the logits of this rank; a rank may have none."""
    import torch

    logits, labels = stacked(batches) if batches else (np.zeros((0, 1)), np.zeros(0))
    loss.update(torch.from_numpy(logits).to(device), torch.from_numpy(labels).long().to(device))


def _restored(saved: dict[str, Any]) -> Calibrator:
    """Return a calibrator from its plain values, with every check of a file."""
    with tempfile.TemporaryDirectory() as folder:
        artefact.write(saved, f"{folder}/calibrator.json")
        return load(f"{folder}/calibrator.json")


def _on_first_rank(work: Callable[[list[Batch]], Any], batches: list[Batch]) -> Any:
    """Return, on every rank, what the first makes of the batches of all; raise there what it raises."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return work(batches)
    first = distributed.get_rank() == 0
    gathered: list[Any] = [None] * distributed.get_world_size()
    distributed.gather_object(batches, gathered if first else None)
    answer: list[Any] = [None]
    if first:
        try:
            answer = [work(list(chain.from_iterable(gathered)))]
        except Exception as error:  # else the other ranks wait for ever
            answer = [error]
    distributed.broadcast_object_list(answer)
    if isinstance(answer[0], Exception):
        raise answer[0]
    return answer[0]
