"""What a fit knows about itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Diagnostics:
    """How a fit went, in facts; `messages` says in words what a user needs to know.

    Attributes
    ----------
    criterion : str
        What was minimised.
    loss : float
        Its mean over the fitted rows, at the fitted parameters.
    converged : bool
        The optimum was reached (or there is none, see `separable`).
    iterations : int
        Passes over all rows, after the starts that were tried on a part of them.
    at_bound : tuple of str
        Parameters that ended at a bound of their search, not at the end of what they can mean.
    separable : bool
        No row is wrong: the likelihood has no maximum.
    worse_than_chance : bool
        The scores point away from the labels: the best temperature is infinite, the best slope negative.
    identifiable : bool
        The data tell the parameters apart.
    unseen_classes : int
        Classes without a row in the fit.
    """

    criterion: str
    loss: float
    converged: bool
    iterations: int
    at_bound: tuple[str, ...] = ()
    separable: bool = False
    worse_than_chance: bool = False
    identifiable: bool = True
    unseen_classes: int = 0

    def messages(self) -> list[str]:
        """Return one sentence for each thing that a user of the fit needs to know."""
        said = []
        if self.separable:
            said.append(
                "Every label has the largest score: the data are perfectly separable and the likelihood has "
                "no maximum. A temperature was set so that the mean loss is that of Laplace's rule of "
                "succession, log((n+2)/(n+1)), or to 1 if it would be lower without need; other parameters "
                "rest on their family's smoothing. Fit on rows that the model has not been trained on."
            )
        if self.worse_than_chance:
            said.append(
                "The scores are worse than chance: they fall where the labels are (a temperature is at its "
                "upper bound, and probabilities become uniform). Check that labels and columns belong "
                "together, and the sign of the scores."
            )
        elif self.at_bound and not self.separable:
            said.append(f"At a bound: {', '.join(self.at_bound)}. The optimum may lie beyond it.")
        if not self.converged:
            said.append("The fit did not converge; the parameters are the best that was found.")
        if not self.identifiable:
            said.append(
                "The parameters are not identifiable together from these data (with two classes, temperature "
                "and gamma > 0 never are): others fit as well, and they mean nothing singly. The calibrated "
                "probabilities are not affected."
            )
        if self.unseen_classes:
            said.append(f"{self.unseen_classes} of the classes have no row in the fit.")
        return said

    def to_dict(self) -> dict[str, Any]:
        """Return the facts and the messages as plain Python values; a loss that is not finite as None."""
        facts = asdict(self) | {"at_bound": list(self.at_bound), "messages": self.messages()}
        return facts | {"loss": self.loss if math.isfinite(self.loss) else None}


#: A parameter or its standard error: a number, or an array of them.
Value = float | NDArray[np.float64]


class Fitted(NamedTuple):
    """What a family's fit returns: parameters, the standard errors it knows, and how it went."""

    parameters: Mapping[str, Value]
    stderr: Mapping[str, Value]
    diagnostics: Diagnostics
