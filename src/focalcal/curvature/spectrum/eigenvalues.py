"""The largest eigenvalues of the Hessian, with their vectors and how exact they are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from focalcal._settings import check_count, check_share
from focalcal.curvature.spectrum.lanczos import Krylov, krylov
from focalcal.curvature.surface.passes import Batch, estimate
from focalcal.curvature.surface.surface import LossSurface
from focalcal.curvature.trace.probes import random_signs

#: Bytes of graphs that are kept from one product to the next unless told otherwise.
MEMORY = 2e9

#: Eigenvalues that must have converged, however few are wanted.
_GUARD = 3


@dataclass(frozen=True)
class Eigenvalues:
    """The k largest eigenvalues of a Hessian.

    Attributes
    ----------
    values : ndarray
        Of shape (k,), falling.
    vectors : Tensor
        Of shape (P, k), orthonormal columns.
    residuals : ndarray
        Norms of A u − λ u (k,): there is an eigenvalue within that distance.
    errors : ndarray
        Estimates of the errors of the values (k,): the squared residual over the gap to the next one.
    products : int
        That it took.
    converged : bool
        Whether all errors are below the tolerance.
    """

    values: np.ndarray
    vectors: Tensor
    residuals: np.ndarray
    errors: np.ndarray
    products: int
    converged: bool


def top_eigenvalues(
    surface: LossSurface,
    count: int = 5,
    *,
    tolerance: float = 1e-6,
    products: int = 100,
    memory: float = MEMORY,
    seed: int = 0,
) -> Eigenvalues:
    r"""Return the largest eigenvalues of the Hessian by Lanczos's method.

    Parameters
    ----------
    surface : LossSurface
        The mean loss whose curvature is wanted.
    count : int
        How many, at most P.
    tolerance : float
        Relative error at which to stop; of eigenvalues below a hundredth of the largest, relative to that.
    products : int
        At most; each takes a pass over the data, and a vector of P numbers.
    memory : float
        Bytes of graphs that may be kept from one product to the next, which saves a quarter of the time.
    seed : int
        Of the start.

    Returns
    -------
    Eigenvalues
        `converged` is False where the products did not suffice: see `errors`.

    Raises
    ------
    ValueError
        For a count above P, or products below the count.

    Notes
    -----
    The start is random signs pulled back from the logits, since the largest eigenvectors lie in the range of
    the Jacobian's transpose, with a random vector so that nothing is left out. An eigenvalue that is there
    several times is found once. Every row counts: of a sample the largest eigenvalue is biased upward.

    References
    ----------
    Golub and Van Loan 2013, Matrix Computations, section 10.3.

    Examples
    --------
    The mean of (a x)² over x = (1, 0) and (0, 2) has the Hessian diag(1, 4):

    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> batches = [(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.zeros(2, 1))]
    >>> top_eigenvalues(LossSurface(model, torch.nn.MSELoss(), batches), 2).values.round(6)
    array([4., 1.])
    """
    check_share("tolerance", tolerance)
    if check_count("products", products) < check_count("count", count) or count > surface.size:
        raise ValueError(
            f"Expected count at most products and the {surface.size} parameters, got count={count} and "
            f"products={products}."
        )
    start = start_vector(surface, surface.means([PulledSigns(seed)])[0], seed)
    enough = partial(converged, count, tolerance)
    with surface.keeping(memory):
        space = estimate(surface, krylov(surface, surface.loss, start, products, enough))
    return of_space(space, count, tolerance)


def converged(count: int, tolerance: float, space: Krylov) -> bool:
    """Return whether the largest eigenvalues are found.

    At least three are looked at: a start that has little of the largest one's vector finds the next first.
    """
    guarded = max(count, _GUARD)
    return len(space.values) > guarded and bool(_exact(space, np.arange(-guarded, 0), tolerance).all())


def _exact(space: Krylov, chosen: np.ndarray, tolerance: float) -> np.ndarray:
    """Return which Ritz values are found; those below a hundredth of the largest, by that hundredth."""
    size = np.abs(space.values)
    found: np.ndarray = space.errors()[chosen] <= tolerance * np.maximum(size[chosen], 0.01 * size.max())
    return found


def of_space(space: Krylov, count: int, tolerance: float) -> Eigenvalues:
    """Return the largest Ritz values of a Krylov space."""
    chosen = np.arange(len(space.values))[::-1][:count]
    errors = space.errors()[chosen]
    whole = space.basis.shape[1] == space.basis.shape[0]
    done = len(chosen) == count and bool(_exact(space, chosen, tolerance).all())
    vectors = space.vectors(chosen)
    return Eigenvalues(
        space.values[chosen], vectors, space.residuals[chosen], errors, len(space.values), done or whole
    )


@dataclass(frozen=True)
class PulledSigns:
    """Random signs of the logits, pulled back to the parameters (P,)."""

    seed: int
    cost = 0.7

    def __call__(self, batch: Batch) -> tuple[Tensor, float]:
        """Return the sum."""
        signs = random_signs(tuple(batch.logits.shape), batch.generator(self.seed)).to(batch.logits)
        pulled = batch.pulled(batch.logits, signs, retain_graph=True)
        return batch.surface.parameters.join(pulled), float(len(signs))


def start_vector(surface: LossSurface, pulled: Tensor, seed: int) -> Tensor:
    """Return a start for Lanczos's method (P,): what was pulled back, and a tenth of a random vector."""
    generator = torch.Generator().manual_seed(seed)
    other = torch.randn(surface.size, generator=generator, dtype=torch.float64).to(pulled.device)
    norm = pulled.norm()
    return pulled / norm + 0.1 * other / other.norm() if norm > 0 else other
