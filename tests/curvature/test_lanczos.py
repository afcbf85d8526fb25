"""Lanczos's eigenvalues and the density beside them, against dense Hessians and a plain recurrence."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from scipy.linalg import eigh_tridiagonal  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from curvature.dense import Problem  # noqa: E402
from focalcal import nn as fnn  # noqa: E402
from focalcal.curvature import LossSurface, top_eigenvalues  # noqa: E402
from focalcal.curvature.spectrum.lanczos import krylov  # noqa: E402
from focalcal.curvature.surface.passes import estimate  # noqa: E402

LOSSES = {"cross-entropy": nn.CrossEntropyLoss(), "focal": fnn.FocalLoss(2.0)}


def space_of(surface, most, seed=0, beside=None):
    start = torch.randn(surface.size, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    return estimate(surface, krylov(surface, surface.loss, start, most, lambda _: False, beside))


def orthogonality(basis):
    basis = basis.double()
    return float((basis.T @ basis - torch.eye(basis.shape[1])).abs().max())


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("loss", LOSSES)
def test_they_are_the_dense_hessians(activation, loss):
    problem = Problem(activation)
    hessian = problem.hessian(LOSSES[loss])
    truth = torch.linalg.eigvalsh(hessian).flip(0).numpy()
    found = top_eigenvalues(problem.surface(LOSSES[loss]), 5)
    assert found.converged
    assert found.products < 25
    np.testing.assert_allclose(found.values, truth[:5], rtol=1e-6)
    scaled = found.vectors * torch.from_numpy(found.values)
    residuals = (hessian @ found.vectors - scaled).norm(dim=0).numpy()
    np.testing.assert_allclose(found.residuals, residuals, rtol=1e-6, atol=1e-12)
    assert orthogonality(found.vectors) < 1e-12


@pytest.mark.parametrize("products", [3, 6, 9, 12])
def test_an_unfinished_run_says_how_far_it_is(products):
    problem, loss = Problem(nn.Tanh), nn.CrossEntropyLoss()
    truth = torch.linalg.eigvalsh(problem.hessian(loss)).flip(0).numpy()
    found = top_eigenvalues(problem.surface(loss), 3, products=products, tolerance=1e-9)
    assert not found.converged
    assert found.products == products
    nearest = np.abs(truth[:, None] - found.values).min(0)
    assert (nearest <= found.residuals).all()  # a theorem
    assert (nearest <= 3 * found.errors).all()  # an estimate: the gap is that of Ritz values
    assert (found.values <= truth[:3] + 1e-12).all()  # Cauchy: from below


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-14), (torch.float32, 5e-7)])
def test_a_long_run_stays_orthogonal_and_has_no_ghosts(dtype, rounding):
    problem, loss = Problem(nn.Tanh), nn.CrossEntropyLoss()
    truth = torch.linalg.eigvalsh(problem.hessian(loss)).numpy()
    problem.net.to(dtype)
    surface = LossSurface(problem.net, loss, [(x.to(dtype), y) for x, y in problem.batches])
    found = space_of(surface, surface.size)
    assert orthogonality(found.basis) < rounding
    np.testing.assert_allclose(found.values, truth, atol=10 * rounding)
    assert found.weights.sum() == pytest.approx(1, rel=1e-12)


def test_a_plain_recurrence_has_ghosts():
    problem, loss = Problem(nn.Tanh), nn.CrossEntropyLoss()
    truth = torch.linalg.eigvalsh(problem.hessian(loss)).flip(0).numpy()
    net = problem.net.float()
    surface = LossSurface(net, loss, [(x.float(), y) for x, y in problem.batches])
    vector = torch.randn(surface.size)
    vector, before, link = vector / vector.norm(), torch.zeros(surface.size), 0.0
    diagonal, off = [], []
    for _ in range(60):
        product = surface.hessian_product(vector).float()
        diagonal.append(float(vector @ product))
        left = product - diagonal[-1] * vector - link * before
        link = float(left.norm())
        off.append(link)
        before, vector = vector, left / link
    ghosts = eigh_tridiagonal(diagonal, off[:-1])[0][::-1]
    assert ghosts[1] == pytest.approx(truth[0], rel=1e-3)  # the largest one again
    assert ghosts[1] > 1.1 * truth[1]
    kept = top_eigenvalues(surface, 2, products=60, tolerance=1e-9).values
    np.testing.assert_allclose(kept, truth[:2], rtol=1e-5)


def linear(matrix):
    """A surface whose Hessian is a given diagonal: the mean over rows of (Σ_j a_j θ_j²) / 2."""
    net = nn.Linear(len(matrix), 1, bias=False).double()

    def loss(logits, target):
        return 0.5 * (matrix * net.weight.flatten() ** 2).sum() + 0 * logits.sum()

    return LossSurface(net, loss, [(torch.zeros(2, len(matrix), dtype=torch.double), torch.zeros(2))])


def test_an_invariant_space_goes_on_beside_itself():
    low = linear(torch.tensor([5.0, 3.0, *[0.0] * 8], dtype=torch.double))
    found = top_eigenvalues(low, 4)
    np.testing.assert_allclose(found.values, [5, 3, 0, 0], atol=1e-6)  # 0 is found as often as is asked for
    assert found.converged
    assert found.products < 8
    assert orthogonality(found.vectors) < 1e-12
    flat = top_eigenvalues(linear(torch.zeros(6, dtype=torch.double)), 3)
    assert flat.values.tolist() == [0, 0, 0]
    assert flat.converged
    two = top_eigenvalues(linear(torch.tensor([2.0, 1.0], dtype=torch.double)), 2)
    np.testing.assert_allclose(two.values, [2, 1], rtol=1e-12)
    assert two.converged


def test_a_multiple_eigenvalue_is_found_once():
    surface = linear(torch.tensor([5.0, 5.0, 5.0, 3.0, 2.0, 1.0, 0.5, 0.2], dtype=torch.double))
    np.testing.assert_allclose(top_eigenvalues(surface, 2).values, [5, 3], rtol=1e-6)


def test_a_loss_that_is_linear_in_the_parameters_has_no_curvature():
    net = nn.Linear(4, 3)
    surface = LossSurface(net, lambda z, y: z.mean(), [(torch.randn(7, 4), torch.zeros(7))])
    assert top_eigenvalues(surface, 3).values.tolist() == [0, 0, 0]


def test_frozen_and_tied_parameters():
    torch.manual_seed(3)
    shared = nn.Linear(4, 4)
    net = nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(4, 3)).double()
    x, y = torch.randn(20, 4, dtype=torch.double), torch.arange(20) % 3
    net[4].bias.requires_grad_(False)
    surface = LossSurface(net, nn.CrossEntropyLoss(), [(x[:7], y[:7]), (x[7:], y[7:])])

    def value(weight, bias, last):
        z = x
        for _ in range(2):
            z = torch.tanh(F.linear(z, weight, bias))
        return F.cross_entropy(F.linear(z, last, net[4].bias), y)

    tensors = surface.parameters.tensors
    blocks = torch.autograd.functional.hessian(value, tensors)
    sizes = [t.numel() for t in tensors]
    rows = [
        torch.cat([b.reshape(n, m) for b, m in zip(row, sizes, strict=True)], 1)
        for row, n in zip(blocks, sizes, strict=True)
    ]
    truth = torch.linalg.eigvalsh(torch.cat(rows))
    assert surface.size == 4 * 4 + 4 + 4 * 3
    np.testing.assert_allclose(top_eigenvalues(surface, 3).values, truth.flip(0)[:3], rtol=1e-6)


def test_a_net_of_float32_and_a_seed():
    problem, loss = Problem(nn.Tanh), fnn.FocalLoss(2.0)
    truth = torch.linalg.eigvalsh(problem.hessian(loss)).flip(0).numpy()
    net = problem.net.float()
    surface = LossSurface(net, loss, [(x.float(), y) for x, y in problem.batches])
    found, again, other = (top_eigenvalues(surface, 4, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_allclose(found.values, truth[:4], rtol=1e-5)
    assert found.vectors.dtype == torch.float32
    assert (found.values == again.values).all()
    assert torch.equal(found.vectors, again.vectors)
    assert not torch.equal(found.vectors, other.vectors)
    np.testing.assert_allclose(found.values, other.values, rtol=1e-5)


def test_a_space_beside_another_is_that_of_the_rest():
    problem, loss = Problem(nn.Tanh), nn.CrossEntropyLoss()
    surface, hessian = problem.surface(loss), problem.hessian(loss)
    first = space_of(surface, 12)
    rest = space_of(surface, surface.size, seed=1, beside=first.basis)
    assert rest.basis.shape[1] == surface.size - 12
    assert orthogonality(torch.cat([first.basis, rest.basis], 1)) < 1e-12
    between = torch.eye(surface.size) - first.basis @ first.basis.T
    truth = torch.linalg.eigvalsh(between @ hessian @ between)
    found = np.sort(np.r_[rest.values, np.zeros(12)])
    np.testing.assert_allclose(found, truth, atol=1e-10)
