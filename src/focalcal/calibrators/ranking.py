"""How calibrators did beside each other on rows they were not fitted on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

from focalcal.intervals.estimate import Estimate


@dataclass(frozen=True)
class Ranked:
    """One candidate of a choice.

    Attributes
    ----------
    name : str
        Its class.
    loss : Estimate
        Mean negative log-likelihood of rows left out of its fits, in nats.
    excess : Estimate
        By how much that is higher than the lowest candidate's, from the same rows; 0 for the lowest.
    chosen : bool
        Whether it was returned.
    """

    name: str
    loss: Estimate
    excess: Estimate
    chosen: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> Self:
        """Return what `to_dict` wrote."""
        return cls(saved["name"], Estimate(**saved["loss"]), Estimate(**saved["excess"]), saved["chosen"])
