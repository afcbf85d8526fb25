"""The density of eigenvalues: a distribution, its moments, and its distance to the true spectrum."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from torch import nn  # noqa: E402

from curvature.dense import Problem  # noqa: E402
from focalcal import nn as fnn  # noqa: E402
from focalcal.curvature import LossSurface, SpectralDensity, spectral_density  # noqa: E402
from focalcal.curvature.spectrum.lanczos import krylov  # noqa: E402
from focalcal.curvature.surface.passes import estimate  # noqa: E402


def trained(n=100, width=12, inputs=8, classes=6):
    """A ReLU network of 342 parameters, its surface and its spectrum."""
    net = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
    net = net.append(nn.Linear(width, classes)).double()
    x = torch.randn(n, inputs, dtype=torch.double)
    y = (x[:, :classes] + 0.7 * torch.randn(n, classes, dtype=torch.double)).argmax(1)
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    surface = LossSurface(net, nn.CrossEntropyLoss(), [(x, y)])
    hessian = surface.hessian_product(torch.eye(surface.size, dtype=torch.double))
    return surface, torch.linalg.eigvalsh(hessian).numpy()


def quadrature(surface, steps, seed):
    """Plain stochastic Lanczos quadrature with one probe."""
    start = torch.randn(surface.size, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    space = estimate(surface, krylov(surface, surface.loss, start, steps, lambda _: False))
    return SpectralDensity(space.values, space.weights, surface.size)


def test_it_is_near_the_spectrum_where_plain_quadrature_is_not():
    surface, truth = trained()
    seeds, scale = range(4), np.abs(truth).mean()
    deflated = np.mean([spectral_density(surface, seed=seed).wasserstein(truth) for seed in seeds])
    plain = np.mean([quadrature(surface, 50, seed).wasserstein(truth) for seed in seeds])
    assert deflated < 0.08 * scale  # 0.07 was seen
    assert plain > 4 * deflated  # 10 times as much


def test_its_moments_are_those_of_the_matrix():
    problem, loss = Problem(nn.Tanh), fnn.FocalLoss(2.0)
    surface, hessian = problem.surface(loss), problem.hessian(loss)
    found = [spectral_density(surface, products=22, seed=seed) for seed in range(25)]
    for order, truth in ((1, hessian.trace()), (2, hessian.square().sum())):
        moments = np.array([density.moment(order) for density in found]) * surface.size
        # the link between both spaces, twice its square, is missing in the second
        assert abs(moments.mean() - float(truth)) < 4 * moments.std() / 5 + 0.005 * (order == 2) * float(
            truth
        )
        assert moments.std() < 0.2 * abs(float(truth))


@pytest.mark.parametrize("products", [10, 30, 200])
def test_it_is_a_distribution(products):
    problem = Problem(nn.Tanh)
    surface = problem.surface(nn.CrossEntropyLoss())
    density = spectral_density(surface, products=products)
    assert (np.diff(density.values) >= 0).all()
    assert (density.weights >= 0).all()
    assert density.weights.sum() == pytest.approx(1, rel=1e-12)
    for width in (None, 0.05):
        grid, heights = density.curve(points=4000, width=width)
        assert (heights >= 0).all()
        assert np.diff(grid) @ heights[1:] == pytest.approx(1, abs=1e-3)
    if (
        products == 200
    ):  # the first space ends with all that differs, and the rest are zeros: it is the spectrum
        truth = torch.linalg.eigvalsh(problem.hessian(nn.CrossEntropyLoss())).numpy()
        assert density.wasserstein(truth) < 1e-10


def test_a_seed_repeats_it_and_a_flat_loss_has_one():
    surface = Problem().surface(nn.CrossEntropyLoss())
    first, again, other = (spectral_density(surface, products=15, seed=seed) for seed in (0, 0, 1))
    assert first.to_dict() == again.to_dict() != other.to_dict()
    flat = LossSurface(nn.Linear(4, 3), lambda z, y: z.mean(), [(torch.randn(7, 4), torch.zeros(7))])
    density = spectral_density(flat)
    assert density.moment(2) == 0
    assert density.weights.sum() == pytest.approx(1)
    grid, heights = density.curve()
    assert np.isfinite(heights).all()
    assert np.isfinite(grid).all()
