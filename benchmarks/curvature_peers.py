"""How each library estimates curvature, as functions of a budget and a seed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from focalcal.curvature import (
    LossSurface,
    hutchinson_trace,
    spectral_density,
    structured_trace,
    top_eigenvalues,
)

LIBRARIES = ("PyHessian", "hessian-eigenthings", "curvlinops-for-pytorch")

#: Of a budget (products, or sketches) and a seed to what was found.
Method = Callable[[int, int], Any]
Batches = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Problem:
    """A model, the loss and its data."""

    model: torch.nn.Module
    loss: torch.nn.Module
    batches: Batches

    def surface(self) -> LossSurface:
        """Return it as ours."""
        return LossSurface(self.model, self.loss, self.batches)

    def gradient(self) -> None:
        """Compute one gradient over all rows: the unit of cost."""
        parameters = list(self.model.parameters())
        for x, y in self.batches:
            torch.autograd.grad(self.loss(self.model(x), y), parameters)


def traces(problem: Problem) -> dict[str, Method]:
    """Return ways to the trace."""
    surface = problem.surface()
    found: dict[str, Method] = {
        "focalcal, sketches": lambda m, s: structured_trace(surface, sketches=max(m, 2), seed=s).value,
        "focalcal, sketches of batches": lambda m, s: (
            structured_trace(surface, sketches=max(m, 2), by="batches", seed=s).value
        ),
        "focalcal, Hutchinson": lambda m, s: hutchinson_trace(surface, probes=max(m, 2), seed=s).value,
    }
    if find_spec("pyhessian"):
        found["PyHessian, Hutchinson"] = _seeded(lambda m: np.mean(_pyhessian(problem).trace(m, tol=0.0)))
    if find_spec("hessian_eigenthings"):
        from hessian_eigenthings import hutch_plus_plus, hutchinson

        operator = _eigenthings(problem)
        found["hessian-eigenthings, Hutchinson"] = lambda m, s: (
            hutchinson(operator, num_samples=m, seed=s).estimate
        )
        found["hessian-eigenthings, Hutch++"] = lambda m, s: (
            hutch_plus_plus(operator, num_matvecs=max(m, 3), seed=s).estimate
        )
    if find_spec("curvlinops"):
        import curvlinops

        matrix = _curvlinops(problem)
        for name, estimate, step in (
            ("Hutchinson", curvlinops.hutchinson_trace, 1),
            ("Hutch++", curvlinops.hutchpp_trace, 3),
            ("XTrace", curvlinops.xtrace, 2),
        ):
            found[f"curvlinops, {name}"] = _seeded(
                lambda m, estimate=estimate, step=step: float(estimate(matrix, max(m // step, 1) * step))
            )
    return found


def eigenvalues(problem: Problem, k: int, goal: float) -> dict[str, Method]:
    """Return ways to the k largest eigenvalues, each an array (k,), largest first."""
    surface = problem.surface()
    found: dict[str, Method] = {
        "focalcal, Lanczos": lambda m, s: (
            top_eigenvalues(surface, k, tolerance=1e-15, products=max(m, k), seed=s).values
        )
    }
    if find_spec("pyhessian"):
        found["PyHessian, power iteration"] = _seeded(
            lambda m: np.sort(_pyhessian(problem).eigenvalues(max(m // k, 1), tol=0.0, top_n=k)[0])[::-1]
        )
    if find_spec("hessian_eigenthings"):
        from hessian_eigenthings import lanczos

        operator = _eigenthings(problem)
        found["hessian-eigenthings, Lanczos"] = lambda m, s: (
            lanczos(operator, k=k, max_iter=max(m, k), which="LA", seed=s).eigenvalues.double().numpy()
        )
    if find_spec("curvlinops"):
        found["curvlinops, SciPy's eigsh"] = _of_scipy(problem, k, goal)
    return found


def densities(problem: Problem) -> dict[str, Method]:
    """Return ways to the spectral density: nodes (m,) and weights (m,)."""
    surface = problem.surface()

    def of_focalcal(m: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        density = spectral_density(surface, products=m, seed=seed)
        return density.values, density.weights

    found: dict[str, Method] = {"focalcal, deflated": of_focalcal}
    if find_spec("pyhessian"):
        found["PyHessian"] = _seeded(lambda m: tuple(np.ravel(one) for one in _pyhessian(problem).density(m)))
    if find_spec("hessian_eigenthings"):
        from hessian_eigenthings import spectral_density as their_density

        operator = _eigenthings(problem)

        def of_eigenthings(m: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
            one = their_density(operator, num_runs=1, lanczos_steps=m, num_grid_points=2, seed=seed)
            return one.raw_eigenvalues[0].double().numpy(), one.raw_weights[0].double().numpy()

        found["hessian-eigenthings"] = of_eigenthings
    if find_spec("curvlinops"):
        from curvlinops.papyan2020traces.spectrum import fast_lanczos

        def of_curvlinops(m: int) -> tuple[np.ndarray, np.ndarray]:
            values, vectors = fast_lanczos(_curvlinops(problem), m)
            return values.double().numpy(), vectors[0].double().numpy() ** 2

        found["curvlinops"] = _seeded(of_curvlinops)
    return found


def _seeded(run: Callable[[int], Any]) -> Method:
    """Seed the global generator, from which a library draws, and pass over its warnings."""

    def seeded(budget: int, seed: int) -> Any:
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return run(budget)

    return seeded


def _pyhessian(problem: Problem) -> Any:
    from pyhessian import hessian

    return hessian(problem.model, problem.loss, dataloader=problem.batches, cuda=False)


def _eigenthings(problem: Problem) -> Any:
    from hessian_eigenthings import HessianOperator, supervised_loss

    return HessianOperator(problem.model, problem.batches, supervised_loss(problem.loss))


def _curvlinops(problem: Problem) -> Any:
    from curvlinops import HessianLinearOperator

    return HessianLinearOperator(
        problem.model,
        problem.loss,
        list(problem.model.parameters()),
        problem.batches,
        check_deterministic=False,
    )


def _of_scipy(problem: Problem, k: int, goal: float) -> Method:
    """Restarted Lanczos in a space of the usual size stops by its own tolerance: there is no budget."""
    from scipy.sparse.linalg import eigsh

    def run(_: int, seed: int) -> np.ndarray:
        operator = _curvlinops(problem).to_scipy()
        start = np.random.default_rng(seed).standard_normal(operator.shape[0]).astype(operator.dtype)
        return np.sort(eigsh(operator, k, which="LA", v0=start, tol=goal, return_eigenvectors=False))[::-1]

    return run
