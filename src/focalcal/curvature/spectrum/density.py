r"""The density of eigenvalues by deflated stochastic Lanczos quadrature.

For a random v on the sphere, the Ritz values θ of a Krylov space of m products, weighted by the squared first
coordinates τ of their vectors, have the spectral density's moments up to 2m − 1 in expectation. The few
eigenvalues that stand out are most of that estimate's error, since v hits or misses them. So a first Krylov
space Q is taken out whole, each of its Ritz values with mass 1/P, and v is drawn beside it: that neglects
only the link :math:`\beta` between them, which moves the eigenvalues by :math:`2\beta` in sum, and leaves the
trace as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from focalcal._settings import check_count
from focalcal.curvature.spectrum.eigenvalues import MEMORY, PulledSigns, start_vector
from focalcal.curvature.spectrum.lanczos import Krylov, krylov
from focalcal.curvature.surface.passes import Estimator, estimate, side_by_side
from focalcal.curvature.surface.surface import LossSurface
from focalcal.curvature.surface.totals import Loss


@dataclass(frozen=True)
class SpectralDensity:
    """A distribution of eigenvalues.

    Attributes
    ----------
    values : ndarray
        Nodes (n,), rising.
    weights : ndarray
        Their shares (n,) of all P eigenvalues, of sum 1.
    size : int
        P.

    Examples
    --------
    >>> density = SpectralDensity(np.array([0.0, 4.0]), np.array([0.75, 0.25]), 8)
    >>> density.moment(1), density.moment(2), density.wasserstein([0, 0, 0, 0, 0, 0, 4, 4])
    (1.0, 4.0, 0.0)
    """

    values: np.ndarray
    weights: np.ndarray
    size: int

    def moment(self, order: int) -> float:
        """Return the mean of λ to a power: times P the trace for 1, the squared Frobenius norm for 2."""
        return float(self.weights @ self.values ** check_count("order", order))

    def wasserstein(self, eigenvalues: Any) -> float:
        """Return the Wasserstein-1 distance to other eigenvalues, in their units."""
        from scipy.stats import wasserstein_distance

        return float(wasserstein_distance(self.values, np.asarray(eigenvalues), self.weights))

    def curve(self, points: int = 400, width: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return a grid of λ and the density there, each node broadened by a normal curve.

        Parameters
        ----------
        points : int
            Of the grid.
        width : float, optional
            Standard deviation, in units of λ. Default: a hundredth of the range.
        """
        low, high = float(self.values[0]), float(self.values[-1])
        width = width if width is not None else max((high - low) / 100, 1e-12)
        grid = np.linspace(low - 4 * width, high + 4 * width, check_count("points", points))
        steps = (grid[:, None] - self.values) / width
        return grid, np.exp(-0.5 * steps**2) @ self.weights / (width * np.sqrt(2 * np.pi))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return {"values": self.values.tolist(), "weights": self.weights.tolist(), "size": self.size}


@dataclass(frozen=True)
class Deflated:
    """A density, and what each probe tells of the squared Frobenius norm and of the trace (probes,)."""

    density: SpectralDensity
    traces: np.ndarray
    squares: np.ndarray


def deflated_density(
    surface: LossSurface, loss: Loss, top: Krylov, probes: int, steps: int, seed: int
) -> Estimator[Deflated]:
    """Estimate the density, given a Krylov space that holds the outer eigenvalues."""
    out, rest = top.values, surface.size - len(top.values)
    generator = torch.Generator().manual_seed(seed)
    starts = [torch.randn(surface.size, generator=generator, dtype=torch.float64) for _ in range(probes)]
    spaces: list[Krylov] = []
    if rest > 0:
        spaces = yield from side_by_side(
            [krylov(surface, loss, start, steps, _closed, top.basis) for start in starts]
        )
    values = np.concatenate([out, *(space.values for space in spaces)])
    shares = [space.weights * (rest / surface.size / probes) for space in spaces]
    weights = np.concatenate([np.full(len(out), 1 / surface.size), *shares])
    order = np.argsort(values)
    density = SpectralDensity(values[order], weights[order], surface.size)
    first, second = (
        np.array([rest * (s.weights @ s.values**k) for s in spaces] or [0.0] * probes) + (out**k).sum()
        for k in (1, 2)
    )
    return Deflated(density, first, second + 2 * top.link**2)


def spectral_density(
    surface: LossSurface, *, products: int = 50, probes: int = 2, memory: float = MEMORY, seed: int = 0
) -> SpectralDensity:
    """Return the density of the Hessian's eigenvalues.

    Parameters
    ----------
    surface : LossSurface
        The mean loss whose curvature is wanted.
    products : int
        In all: two fifths for the outer eigenvalues, the rest for the probes beside them.
    probes : int
        Random vectors.
    memory : float
        Bytes of graphs that may be kept from one product to the next.
    seed : int
        Of the random vectors.

    Returns
    -------
    SpectralDensity
        Nodes and shares of the P eigenvalues.

    Raises
    ------
    ValueError
        For fewer than 5 products a probe.

    Notes
    -----
    Of ReLU networks of 342 to 1,810 parameters with 50 products the Wasserstein-1 distance to the true
    spectrum was 4 to 10 % of the mean |λ|, where Lanczos quadrature with one probe and as many products left
    26 to 58 %.

    References
    ----------
    Ubaru, Chen and Saad 2017, doi:10.1137/16M1104974.

    Examples
    --------
    The mean of (a x)² over x = (1, 0) and (0, 2) has the Hessian diag(1, 4):

    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> batches = [(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.zeros(2, 1))]
    >>> spectral_density(LossSurface(model, torch.nn.MSELoss(), batches)).values.round(6)
    array([1., 4.])
    """
    if check_count("products", products) < 5 * check_count("probes", probes):
        raise ValueError(f"Expected at least 5 products a probe, got {products} for {probes}.")
    first = products * 2 // 5
    start = start_vector(surface, surface.means([PulledSigns(seed)])[0], seed)
    with surface.keeping(memory):
        space = estimate(surface, krylov(surface, surface.loss, start, first, _closed))
        steps = (products - first) // probes
        beside = deflated_density(surface, surface.loss, space, probes, steps, seed)
        return estimate(surface, beside).density


def _closed(space: Krylov) -> bool:
    return space.closed
