"""What passes cost, counted in gradients of the whole data, and when to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from focalcal.curvature.rows.forms import RowForms
from focalcal.curvature.surface.passes import GGNProduct, Gradient, HessianProduct, Task

#: Of one forward pass through the model.
FORWARD = 0.3

#: Of a loss's gradient with its graph, which all products of a batch share, and of one product.
SLOPES, PRODUCT = 1.0, 2.7


@dataclass
class Budget:
    """Gradient-equivalents: what a pass took on a ResNet-20 in units of a gradient of the same rows.

    Nominal figures, so that what is measured does not depend on the machine's load.
    """

    limit: float = float("inf")
    spent: float = 0.0
    progress: Callable[[str, int, int], None] | None = None
    stopped: list[str] = field(default_factory=list)

    def charge(self, tasks: Sequence[Task]) -> None:
        """Count one pass."""
        self.spent += FORWARD + sum(self.of(task) for task in tasks)
        graphs = {id(task.loss) for task in tasks if isinstance(task, HessianProduct)}
        self.spent += SLOPES * len(graphs)
        if self.progress is not None:
            self.progress("gradients", round(self.spent), round(self.limit))

    def left(self) -> float:
        """Return what may still be spent."""
        return self.limit - self.spent

    def until_half(self) -> float:
        """Return what the traces may still spend: the other half is for eigenvalues and density."""
        return self.limit / 2 - self.spent

    @staticmethod
    def of(task: Task) -> float:
        """Return what one task costs beside the forward pass and the graph that all share."""
        if isinstance(task, HessianProduct):
            return PRODUCT * task.vectors.shape[1]
        if isinstance(task, GGNProduct):
            return 1.7 * task.vectors.shape[1]
        if isinstance(task, RowForms):
            return (3.3 if task.residual else 1.0) * task.vectors.shape[1]
        if isinstance(task, Gradient):
            return 0.7
        return float(getattr(task, "cost", 0.0))
