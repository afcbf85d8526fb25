"""What every metric returns: a number, how far it can be trusted, and how that was found."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error and interval.

    Attributes
    ----------
    value : float
        The estimate, by the textbook formula of the metric.
    stderr : float
        Standard error, in the units of `value`; NaN where it cannot be known (one row).
    low, high : float
        Ends of the interval at `level`.
    n : int
        Rows it was computed from.
    method : str
        How the interval was found.
    level : float
        Coverage the interval aims at.

    Examples
    --------
    >>> print(Estimate(0.25, 0.01, 0.23, 0.27, 1000, "normal"))
    0.2500 [0.2300, 0.2700] (n=1000)
    """

    value: float
    stderr: float
    low: float
    high: float
    n: int
    method: str
    level: float = 0.95

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}] (n={self.n})"

    def to_dict(self) -> dict[str, float | int | str]:
        """Return the fields as plain Python values."""
        return asdict(self)
