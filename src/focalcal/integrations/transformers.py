"""Losses and metrics for the Trainer of Hugging Face transformers; imports neither it nor PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from focalcal._settings import check_bins, check_level
from focalcal._validate import check_input
from focalcal.integrations.batches import as_batch, as_numpy
from focalcal.integrations.judge import Judge
from focalcal.verdicts.evaluation import Evaluation

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

#: The label that the Trainer leaves out when it counts labels; it cannot be told of another.
_IGNORED = -100


def loss_for_trainer(loss: Module, *, shift: bool = False, class_axis: int = -1) -> Callable[..., Tensor]:
    r"""Return `compute_loss_func` for the Trainer: a loss that gradient accumulation does not change.

    Parameters
    ----------
    loss : Module
        A loss of logits (n, C) and class indices (n,) with the attribute `reduction`, such as
        `focalcal.nn.FocalLoss` or `torch.nn.CrossEntropyLoss`. Its own reduction is not used.
    shift : bool
        Position i predicts the label at i + 1, as in causal language models.
    class_axis : int
        The axis of the logits that holds the classes: the last for sequence and token classification and
        language models, 1 for images (N, C, H, W).

    Returns
    -------
    callable
        From the model's outputs, labels and `num_items_in_batch` to a scalar.

    Raises
    ------
    ValueError
        For a loss without `reduction` or with another `ignore_index` than −100; when called, for labels that
        are missing or are not class indices of the logits' shape.

    Notes
    -----
    The loss is the sum over labels other than −100, divided by their number in all the batches of a step,
    which is what the Trainer counts as `num_items_in_batch`; where it counts none, by their number in this
    batch. The weights of classes are not divided out, as the Trainer does not know their sum: weights of mean
    1 over the labels leave the step size as it was.

    With `shift` the Trainer leaves the first label of each sequence out of its count only for models whose
    `loss_type` is that of a causal language model; for others set it to −100.

    A loss that is more than a sum over rows, such as `focalcal.nn.MMCELoss`, cannot be accumulated and
    raises. A loss that adapts, such as `focalcal.nn.AdaFocalLoss`, may go on being updated.

    Examples
    --------
    ``Trainer(..., compute_loss_func=loss_for_trainer(FocalLoss(gamma=2.0)))``

    >>> import torch
    >>> compute_loss = loss_for_trainer(torch.nn.CrossEntropyLoss())
    >>> outputs = {"logits": torch.zeros(1, 3, 2)}  # each token costs log 2 = 0.693147
    >>> labels = torch.tensor([[0, 1, -100]])
    >>> round(compute_loss(outputs, labels, num_items_in_batch=4).item(), 6)
    0.346574
    """
    if not hasattr(loss, "reduction"):
        raise ValueError(
            f"Expected a loss with the attribute reduction, got {type(loss).__name__}. Pass a Module such as "
            "FocalLoss(gamma=2.0)."
        )
    if getattr(loss, "ignore_index", _IGNORED) != _IGNORED:
        raise ValueError(
            f"Expected ignore_index={_IGNORED}, which the Trainer counts by, got {loss.ignore_index}. Set "
            f"the labels to be left out to {_IGNORED}."
        )
    rowwise: Any = copy.copy(loss)  # its buffers stay those of the loss
    rowwise.reduction = "none"

    def compute_loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Tensor:
        logits = _logits_of(outputs).movedim(class_axis, -1)
        labels = _labels_of(labels)
        if shift:
            logits, labels = logits[..., :-1, :], labels[..., 1:]
        if labels.shape != logits.shape[:-1]:
            raise ValueError(
                f"Expected labels of shape {tuple(logits.shape[:-1])}, got {tuple(labels.shape)}. Pass class "
                "indices, and the axis of the classes as class_axis."
            )
        total: Tensor = rowwise.to(logits.device)(logits.flatten(end_dim=-2), labels.flatten()).sum()
        if num_items_in_batch is None:
            num_items_in_batch = (labels != _IGNORED).sum().clamp(min=1)
        return total.div(num_items_in_batch)

    return compute_loss


def _logits_of(outputs: Any) -> Any:
    if not isinstance(outputs, Mapping) or "logits" not in outputs:
        got = ", ".join(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
        raise ValueError(
            f'Expected outputs with "logits", got {got}. Return a dict from forward; models of transformers '
            "do with return_dict=True."
        )
    return outputs["logits"]


def _labels_of(labels: Any) -> Any:
    if labels is None or labels.is_floating_point():
        got = "none" if labels is None else labels.dtype
        raise ValueError(f'Expected class indices as "labels" in each batch, got {got}. Check the collator.')
    return labels


class CalibrationMetrics:
    r"""`compute_metrics` for the Trainer: NLL, Brier score, accuracy and ECE with intervals.

    Parameters
    ----------
    input : {"logits", "probs"}
        What the model's predictions are. It is declared, never guessed.
    bins : int
        Bins of the calibration errors.
    classwise : bool
        Whether to find the class-wise ECE too.
    ignore_index : int
        Rows with this label are left out.
    level : float
        Coverage of the intervals.
    shift, class_axis
        As `loss_for_trainer`.

    Attributes
    ----------
    evaluation_ : Evaluation or None
        Of the last evaluation that came to its end, with the reliability diagram; None if it had no rows.

    Raises
    ------
    ValueError
        If values, shapes or labels cannot be right; the message says which.

    Notes
    -----
    With ``TrainingArguments(batch_eval_metrics=True)`` each batch is added to sums of float64 and forgotten:
    memory does not grow with the number of rows. Without it the Trainer keeps every logit and calls once; the
    answer is the same. The values are those of `focalcal.evaluate`: "nll" (nats), "brier", "accuracy", "ece"
    and, if asked for, "classwise_ece", each with "_low" and "_high", and "n", the labels counted.

    Tokens of a sequence and pixels of an image are dependent: each sequence or image is one cluster, as in
    `focalcal.evaluate`, and the intervals allow for it.

    The sums begin anew after each answer; call `reset` after an evaluation that broke off.

    Examples
    --------
    ``Trainer(..., compute_metrics=CalibrationMetrics(), args=TrainingArguments(batch_eval_metrics=True, …))``

    >>> import numpy as np
    >>> metrics = CalibrationMetrics(input="probs")
    >>> found = metrics((np.array([[0.25, 0.75], [0.0, 1.0]]), np.array([1, 1])))
    >>> found["ece"], found["accuracy"], found["n"]
    (0.125, 1.0, 2.0)
    """

    def __init__(
        self,
        *,
        input: str = "logits",
        bins: int = 15,
        classwise: bool = False,
        ignore_index: int = _IGNORED,
        level: float = 0.95,
        shift: bool = False,
        class_axis: int = -1,
    ) -> None:
        self.input, self.bins, self.level = check_input(input), check_bins(bins), check_level(level)
        self.classwise, self.ignore_index = classwise, ignore_index
        self.shift, self.class_axis = shift, class_axis
        self.evaluation_: Evaluation | None = None
        self.reset()

    def reset(self) -> None:
        """Forget the batches that were added since the last answer."""
        self._judge: Judge | None = None
        self._sums: Any = 0.0

    def __call__(self, prediction: Any, compute_result: bool = True) -> dict[str, float]:
        """Add a batch; with `compute_result` return the metrics of all batches and begin anew.

        Parameters
        ----------
        prediction : transformers.EvalPrediction, or a pair
            Predictions (N, …, C) and labels (N, …), arrays or tensors.
        compute_result : bool
            Whether it is the last batch.
        """
        scores, labels = self._arranged(*tuple(prediction)[:2])
        if self._judge is None:
            n_classes = 2 if scores.ndim == 1 else scores.shape[1]
            self._judge = Judge(n_classes, self.input, self.bins, self.level, self.classwise)
        self._sums = self._sums + self._judge.sums(as_batch(scores, labels, self.ignore_index))
        if not compute_result:
            return {}
        judge, sums = self._judge, self._sums
        self.reset()
        self.evaluation_ = judge.evaluation(sums) if sums[0] else None
        return judge.numbers(sums)

    def _arranged(self, scores: Any, labels: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return scores with the classes second, and labels."""
        for name, values in (("predictions", scores), ("labels", labels)):
            if not hasattr(values, "ndim"):
                raise ValueError(
                    f"Expected {name} as one array, got {type(values).__name__}. Where a model returns more "
                    "than logits, pass preprocess_logits_for_metrics=lambda logits, labels: logits[0]."
                )
        scores, labels = as_numpy(scores), as_numpy(labels)
        if scores.ndim > 1:
            scores = np.moveaxis(scores, self.class_axis, 1)
        return (scores[..., :-1], labels[..., 1:]) if self.shift else (scores, labels)


def curvature_callback(recorder: Any) -> Any:
    """Return a callback for the Trainer that steps a `focalcal.curvature.CurvatureRecorder`.

    Parameters
    ----------
    recorder : CurvatureRecorder
        Counts optimizer steps; `recorder.history` holds what was measured. Its loader gives dicts with
        "labels", which the model is called without.

    Raises
    ------
    ModuleNotFoundError
        If transformers is not installed.

    Examples
    --------
    ``Trainer(..., callbacks=[curvature_callback(CurvatureRecorder(criterion, loader, every=100))])``
    """
    try:
        from transformers import TrainerCallback
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "curvature_callback needs transformers: pip install transformers", name=error.name
        ) from error

    class Recording(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            recorder.step(kwargs["model"])

    return Recording()
