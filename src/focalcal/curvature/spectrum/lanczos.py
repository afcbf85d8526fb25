r"""Eigenvalues by Lanczos's method: a Krylov space of products, kept orthogonal.

After m products with A from a start v the basis :math:`Q_m` has :math:`Q_m^\top A Q_m = T`, tridiagonal; its
eigenvalues θ (Ritz values) approach A's from the ends of the spectrum inward, and
:math:`\| A Q_m s - \theta Q_m s \| = \beta_m |s_m|` is the residual, without another product. In finite
precision the basis loses its orthogonality as soon as a Ritz value converges, and copies of it (ghosts)
appear: every new vector is orthogonalised against all earlier ones, twice. Where the space is invariant
before it is enough, as that of a matrix of low rank soon is, it goes on from random signs beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from focalcal.curvature.surface.passes import Found, HessianProduct, Task
from focalcal.curvature.surface.surface import LossSurface
from focalcal.curvature.surface.totals import Loss
from focalcal.curvature.trace.probes import random_signs


@dataclass(frozen=True)
class Krylov:
    """A Krylov space, and what it tells of the spectrum."""

    basis: Tensor  # (P, m), orthonormal, in the parameters' precision, at least float32
    values: np.ndarray  # (m,) Ritz values, rising
    weights: np.ndarray  # (m,) squared share of the start in each Ritz vector, of sum 1
    coordinates: np.ndarray  # (m, m) of the Ritz vectors, as columns
    residuals: np.ndarray  # (m,)
    link: float  # β_m, the norm of what couples the space to the rest

    @property
    def closed(self) -> bool:
        """Whether the space is invariant, up to the rounding errors of float32 products."""
        return bool(self.link <= 1e-7 * np.abs(self.values).max())

    def errors(self) -> np.ndarray:
        """Return estimates of the Ritz values' errors (m,): the residual, or its square over the gap."""
        if len(self.values) < 2:
            return self.residuals
        apart = np.diff(self.values)
        gaps = np.minimum(np.r_[np.inf, apart], np.r_[apart, np.inf])
        with np.errstate(divide="ignore", invalid="ignore"):
            found: np.ndarray = np.fmin(self.residuals, self.residuals**2 / gaps)
        return found

    def vectors(self, chosen: np.ndarray) -> Tensor:
        """Return Ritz vectors (P, k)."""
        return self.basis @ torch.as_tensor(self.coordinates[:, chosen]).to(self.basis)


def krylov(
    surface: LossSurface,
    loss: Loss,
    start: Tensor,
    most: int,
    enough: Callable[[Krylov], bool],
    beside: Tensor | None = None,
) -> Generator[Sequence[Task], list[Found], Krylov]:
    """Build a Krylov space of the Hessian, a product at a time, until it is enough or has `most` vectors.

    Parameters
    ----------
    surface, loss :
        Whose Hessian.
    start : Tensor
        Of shape (P,).
    most : int
        Products at most.
    enough : callable
        Whether the space will do.
    beside : Tensor, optional
        Orthonormal columns (P, q) that the space stays orthogonal to: it is then that of the Hessian between
        projections.
    """
    held = surface.parameters.tensors[0]
    most = min(most, surface.size - (0 if beside is None else beside.shape[1]))
    # rows of it take memory only once they are written
    precision = torch.promote_types(held.dtype, torch.float32)
    basis = torch.empty(most, surface.size, dtype=precision, device=held.device).T
    diagonal, off = np.zeros(most), np.zeros(most)
    vector = _orthogonal(start.to(held.device, torch.float64), basis[:, :0], beside)
    for j in range(most):
        vector = vector / vector.norm()
        basis[:, j] = vector
        ((product, weight),) = yield [HessianProduct(loss, vector.unsqueeze(1))]
        product = product[:, 0] / weight
        diagonal[j] = float(vector @ product)
        vector = _orthogonal(product, basis[:, : j + 1], beside)
        off[j] = float(vector.norm())
        found = _ritz(basis[:, : j + 1], diagonal[: j + 1], off[: j + 1])
        if enough(found):
            break
        if found.closed:
            other = random_signs((surface.size,), torch.Generator().manual_seed(j)).to(held.device)
            vector, off[j] = _orthogonal(other, basis[:, : j + 1], beside), 0.0
    return found


def _ritz(basis: Tensor, diagonal: np.ndarray, off: np.ndarray) -> Krylov:
    values, coordinates = eigh_tridiagonal(diagonal, off[:-1])
    residuals = off[-1] * np.abs(coordinates[-1])
    return Krylov(basis, values, coordinates[0] ** 2, coordinates, residuals, float(off[-1]))


def _orthogonal(vector: Tensor, basis: Tensor, beside: Tensor | None) -> Tensor:
    """Return what of a vector (P,) is orthogonal to some columns, float64; once leaves rounding errors."""
    for _ in range(2):
        for columns in (basis, beside):
            if columns is not None and columns.shape[1]:
                vector = vector - (columns @ (columns.T @ vector.to(columns.dtype))).double()
    return vector
