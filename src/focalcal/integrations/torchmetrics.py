"""Calibration as a torchmetrics metric: `CalibrationMetric`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

try:
    import torch
    from torch import Tensor
    from torchmetrics import Metric
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "focalcal.integrations.torchmetrics needs torchmetrics: pip install torchmetrics", name=error.name
    ) from error

from focalcal._validate import check_input
from focalcal.integrations.batches import as_batch
from focalcal.integrations.judge import Judge
from focalcal.verdicts.evaluation import Evaluation


class CalibrationMetric(Metric):
    r"""NLL, Brier score, accuracy and ECE with intervals, from sums that merge over batches and ranks.

    Parameters
    ----------
    num_classes : int
        Classes K.
    bins : int
        Bins B of the calibration errors.
    input : {"logits", "probs"}
        What `preds` holds. It is declared, never guessed.
    classwise : bool
        Whether to find the class-wise ECE too; its sums are 5·K·B numbers.
    ignore_index : int
        Rows with this label are left out.
    level : float
        Coverage of the intervals.
    **kwargs
        Of `torchmetrics.Metric`, such as `sync_on_compute`.

    Raises
    ------
    ValueError
        If values, shapes or labels cannot be right; the message says which.

    Notes
    -----
    `compute` returns a dict of float64 scalars: "nll" (nats), "brier", "accuracy", "ece" and, if asked for,
    "classwise_ece", each with "_low" and "_high", the ends of its interval; and "n", the rows. They are those
    of `focalcal.evaluate` on all rows together; without any row they are NaN. `evaluation` returns the object
    itself, with the reliability diagram. In a loop call `update`: calling the metric computes intervals too.

    The state is one vector of 113 + 5 B (1 + K if class-wise) float64, whatever the number of rows, so counts
    are exact up to 9e15. It stays float64 whatever `set_dtype` says. Sums are formed on the CPU; the state
    lives on the metric's device, except on MPS, which has no float64: there it stays on the CPU.

    Predictions of shape (N, K, d1, …) are images (or sequences), each of them one cluster of dependent rows,
    as in `focalcal.evaluate`; the intervals allow for it exactly. An image must not be cut over two batches.

    Examples
    --------
    >>> import torch
    >>> metric = CalibrationMetric(num_classes=2, input="probs")
    >>> metric.update(torch.tensor([[0.25, 0.75], [0.0, 1.0]]), torch.tensor([1, 1]))
    >>> found = metric.compute()
    >>> found["ece"].item(), found["accuracy"].item(), found["n"].item()
    (0.125, 1.0, 2.0)
    >>> metric.evaluation()["brier"].value
    0.0625
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    sums: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        bins: int = 15,
        input: str = "logits",
        classwise: bool = False,
        ignore_index: int = -100,
        level: float = 0.95,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.judge = Judge(num_classes, check_input(input), bins, level, classwise)
        self.ignore_index = ignore_index
        zeros = torch.zeros(self.judge.size, dtype=torch.float64, device="cpu")
        self.add_state("sums", zeros, dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch.

        Parameters
        ----------
        preds : Tensor of shape (N, K, d1, …), or (N,) for two classes
            Logits or probabilities as declared, of any float dtype.
        target : Tensor of shape (N, d1, …)
            Class indices.
        """
        sums = self.judge.sums(as_batch(preds, target, self.ignore_index))
        self.sums = self.sums + torch.from_numpy(sums).to(self.sums.device)

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics and the ends of their intervals by name."""
        numbers = self.judge.numbers(self.sums.cpu().numpy())
        return {
            name: torch.tensor(value, dtype=torch.float64, device=self.sums.device)
            for name, value in numbers.items()
        }

    def evaluation(self) -> Evaluation:
        """Return the evaluation of all rows so far, of all ranks: every rank must call it.

        Raises
        ------
        ValueError
            If there were no rows.
        """
        if self._is_synced:
            return self.judge.evaluation(self.sums.cpu().numpy())
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self.sync_on_compute):
            sums = self.sums.cpu().numpy()
        return self.judge.evaluation(sums)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = ()) -> CalibrationMetric:
        """Move the state with the metric, but never to another dtype."""
        self._computed = self._forward_cache = None  # float64 too, and cheap to find again
        super()._apply(fn, exclude_state=("sums", *exclude_state))
        self.sums = self.sums.to("cpu" if self.device.type == "mps" else self.device)
        return self
