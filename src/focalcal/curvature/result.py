"""What `measure` returns: the curvature of one or two losses at the same weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from focalcal._settings import optional_module
from focalcal.curvature.spectrum.density import SpectralDensity
from focalcal.curvature.spectrum.eigenvalues import Eigenvalues
from focalcal.curvature.trace.probes import TraceEstimate
from focalcal.intervals.estimate import Estimate


@dataclass(frozen=True)
class LossCurvature:
    """Curvature of one loss; losses in nats, curvature in nats per squared unit of the parameters.

    Attributes
    ----------
    name : str
        Of the loss.
    loss : Estimate
        Mean loss; its interval is over the choice of rows.
    gradient_norm : float
        Euclidean norm of the mean loss's gradient.
    trace, ggn_trace : TraceEstimate
        Of the Hessian, and of the generalised Gauss–Newton matrix.
    top : Eigenvalues
        The largest eigenvalues of the Hessian.
    top_data_stderr : float
        Standard error of the largest one over the choice of rows, at a fixed eigenvector; NaN where the model
        has operations without forward mode. Of a sample it is biased upward, which this does not show.
    lowest : float
        Smallest eigenvalue found; an upper bound of the smallest.
    frobenius : Estimate
        Frobenius norm of the Hessian; its interval is over probes.
    sharpness : float
        Rise of the loss along the gradient, a step of `rho` long (SAM's).
    density : SpectralDensity
        Of all P eigenvalues of the Hessian.
    """

    name: str
    loss: Estimate
    gradient_norm: float
    trace: TraceEstimate
    ggn_trace: TraceEstimate
    top: Eigenvalues
    top_data_stderr: float
    lowest: float
    frobenius: Estimate
    sharpness: float
    density: SpectralDensity

    @property
    def eigenvalues(self) -> np.ndarray:
        """The largest eigenvalues (k,), falling."""
        return self.top.values

    @property
    def residuals(self) -> np.ndarray:
        """Norms of A u − λ u (k,)."""
        return self.top.residuals

    def to_dict(self) -> dict[str, Any]:
        """Return all but the eigenvectors as plain Python values."""
        top = {
            "values": self.top.values.tolist(),
            "residuals": self.top.residuals.tolist(),
            "errors": self.top.errors.tolist(),
            "products": self.top.products,
            "converged": self.top.converged,
        }
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: v.to_dict() if hasattr(v, "to_dict") else v for name, v in plain.items()} | {"top": top}


@dataclass(frozen=True)
class Curvature:
    """Curvature of the training loss, and of a common loss at the same weights.

    Attributes
    ----------
    training : LossCurvature
        Of the loss that was given.
    common : LossCurvature or None
        Of the common loss, cross-entropy unless told otherwise: what losses of different scale are compared
        by. None where the training loss is the same.
    size : int
        Number of parameters P.
    rows : int
        Rows that were measured.
    mode : str
        "eval" or "train".
    curved_by : str or None
        An operation that makes the logits curved in a single parameter tensor. None: the network is piecewise
        linear, and the traces of Hessian and GGN are the same.
    cost : float
        In gradients of the whole data, by nominal figures.
    stopped : str
        What ended the measurement.
    notes : tuple of str
        What the reader should know.
    seed : int
        Of everything random.
    """

    training: LossCurvature
    common: LossCurvature | None
    size: int
    rows: int
    mode: str
    curved_by: str | None
    cost: float
    stopped: str
    notes: tuple[str, ...]
    seed: int

    @property
    def losses(self) -> tuple[LossCurvature, ...]:
        """One or two."""
        return (self.training,) if self.common is None else (self.training, self.common)

    def to_dict(self) -> dict[str, Any]:
        """Return all but the eigenvectors as plain Python values."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: v.to_dict() if hasattr(v, "to_dict") else v for name, v in plain.items()} | {
            "notes": list(self.notes)
        }

    def plot(self, ax: Any = None) -> Any:
        """Draw how many eigenvalues lie where, and return the axes (matplotlib).

        Both axes are logarithmic, that of λ linear around 0, a thousandth of the largest wide. A single
        eigenvalue is a bump of area 1.
        """
        pyplot = optional_module("matplotlib.pyplot", "plot", "plot")
        ax = pyplot.subplots(figsize=(7, 4), layout="constrained")[1] if ax is None else ax
        width = max(float(np.abs(one.density.values).max()) for one in self.losses) / 1000 or 1.0
        for one, colour in zip(self.losses, ("#d55e00", "#2f8fd0"), strict=False):
            nodes = np.arcsinh(one.density.values / width)
            grid = np.linspace(nodes[0] - 1, nodes[-1] + 1, 600)
            bumps = np.exp(-(((grid[:, None] - nodes) / 0.15) ** 2) / 2) / (0.15 * np.sqrt(2 * np.pi))
            count = bumps @ one.density.weights * self.size
            ax.fill_between(np.sinh(grid) * width, count, 0.01, color=colour, alpha=0.25)
            ax.plot(np.sinh(grid) * width, count, color=colour, label=one.name)
        ax.set_xscale("asinh", linear_width=width)
        ax.set_yscale("log")
        ax.set_ylim(bottom=0.1)
        ax.set_xlabel("eigenvalue λ of the Hessian")
        ax.set_ylabel(f"eigenvalues per unit of asinh(λ/{width:.2g})")
        ax.legend()
        return ax

    def __str__(self) -> str:
        lines = [f"{self.size:,} parameters, {self.rows:,} rows, {self.mode} mode"]
        columns = [{"": one.name, **_cells(one)} for one in self.losses]
        widths = [max(map(len, column.values())) + 3 for column in columns]
        lines += [
            f"{title:22s}" + "".join(f"{column[title]:>{width}s}" for column, width in zip(columns, widths))
            for title in columns[0]
        ]
        return "\n".join([*lines, f"stopped: {self.stopped} ({self.cost:.0f} gradients)", *self.notes])


def _cells(one: LossCurvature) -> dict[str, str]:
    """Return the table's column of one loss."""
    top = one.top
    return {
        "loss": _over(one.loss.value, one.loss.stderr, "data"),
        "gradient norm": f"{one.gradient_norm:.4g}",
        "trace": _two(one.trace),
        "trace of the GGN": _two(one.ggn_trace),
        "largest eigenvalue": _over(float(top.values[0]), one.top_data_stderr, "data"),
        "next eigenvalues": " ".join(f"{value:.3g}" for value in top.values[1:5]),
        "their relative error": f"{float(np.max(top.errors / np.abs(top.values))):.1g} at most",
        "smallest found": f"{one.lowest:.3g}",
        "Frobenius norm": _over(one.frobenius.value, one.frobenius.stderr, "probes"),
        "sharpness": f"{one.sharpness:.4g}",
    }


def _over(value: float, stderr: float, what: str) -> str:
    return f"{value:.4g}" + (f" ± {stderr:.2g} {what}" if math.isfinite(stderr) else "")


def _two(trace: TraceEstimate) -> str:
    data = f" ± {trace.data_stderr:.2g} data" if math.isfinite(trace.data_stderr) else ""
    return f"{trace.value:.4g} ± {trace.stderr:.2g} probes{data}"
