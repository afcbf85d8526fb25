"""The map on tensors against the NumPy one, and the identity proper part ∘ map = focal loss."""

import copy
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

import focalcal  # noqa: E402
from focalcal import nn as fnn  # noqa: E402

GAMMAS = [-1.0, -0.9, -0.5, 0.0, 0.5, 1.0, 2.0, 5.0, 20.0]


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("scale", [0.1, 3.0, 60.0, 3000.0])
def test_map_and_inverse_equal_those_in_numpy(gamma, scale):
    z = torch.randn(20, 7, dtype=torch.double) * scale
    expected = focalcal.focal_map(z.numpy(), gamma)
    np.testing.assert_allclose(fnn.focal_map(z, gamma), expected, rtol=1e-11, atol=1e-300)
    back = focalcal.inverse_focal_map(z.numpy(), gamma)
    np.testing.assert_allclose(fnn.inverse_focal_map(z, gamma), back, rtol=1e-9, atol=1e-9)
    narrow = fnn.focal_map(z.float(), gamma)
    assert narrow.dtype == torch.float32
    np.testing.assert_allclose(narrow, focalcal.focal_map(z.float().numpy(), gamma), rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("n_classes", [2, 3, 30])
def test_proper_part_after_the_map_is_focal_loss(gamma, n_classes):
    z = (torch.randn(50, n_classes, dtype=torch.double) * 3).requires_grad_()
    y = torch.randint(n_classes, (50,))
    focal = fnn.focal_loss(z, y, gamma)
    both = fnn.proper_focal_loss(fnn.focal_map(z, gamma), y, gamma)
    torch.testing.assert_close(both, focal, rtol=1e-9, atol=1e-12)
    expected, found = (torch.autograd.grad(v, z)[0] for v in (focal, both))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("gamma", [-0.5, 0.5, 2.0])
def test_the_minimum_is_at_the_posterior(gamma):
    posterior = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.double)
    z = posterior.log().requires_grad_()
    for loss, at in [(fnn.proper_focal_loss, z), (fnn.focal_loss, fnn.inverse_focal_map(z, gamma).detach())]:
        at = at.detach().requires_grad_()
        value = loss(at, posterior, gamma)
        (gradient,) = torch.autograd.grad(value, at)
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)
        for _ in range(5):
            assert loss(at + 0.1 * torch.randn_like(at), posterior, gamma) > value


@pytest.mark.parametrize("function", [fnn.focal_map, fnn.inverse_focal_map])
@pytest.mark.parametrize("gamma", [-0.5, 0.5, 3.0])
def test_derivatives_of_the_maps(function, gamma):
    z = torch.randn(2, 3, dtype=torch.double, requires_grad=True)
    g = torch.tensor(gamma, dtype=torch.double, requires_grad=True)
    per_row = torch.full((2, 1), gamma, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: function(z, gamma), z)
    for each in (g, per_row):
        assert torch.autograd.gradcheck(function, (z, each))
        assert torch.autograd.gradgradcheck(function, (z, each))
    together = torch.func.vmap(lambda row, g: function(row, g))(z, per_row[:, 0])
    torch.testing.assert_close(together, function(z, per_row))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("gamma", [-1.0, -0.5, 0.5, 3.0])
@pytest.mark.parametrize("function", [fnn.focal_map, fnn.inverse_focal_map])
def test_maps_of_sure_and_masked_rows(dtype, gamma, function):
    z = torch.tensor([[1e4, 0, 3], [1e4, 1e4, 0], [90, 0, 89.0]], dtype=dtype, requires_grad=True)
    found = function(z, gamma)
    (gradient,) = torch.autograd.grad(found.sum(), z, create_graph=True)
    (product,) = torch.autograd.grad(gradient.square().float().sum(), z)
    for tensor in (found, gradient, product):
        assert tensor.isfinite().all()
    masked = torch.tensor([[1.0, -torch.inf, 0.5]], dtype=dtype)
    mapped = function(masked, gamma)
    assert mapped[0, 1] == -torch.inf
    torch.testing.assert_close(mapped[:, [0, 2]], function(masked[:, [0, 2]], gamma))


def test_shapes_of_the_maps():
    z = torch.randn(2, 4, 3, 5)
    flat = fnn.focal_map(z.movedim(1, -1).reshape(-1, 4), 1.0).reshape(2, 3, 5, 4).movedim(-1, 1)
    torch.testing.assert_close(fnn.focal_map(z, 1.0), flat)
    torch.testing.assert_close(fnn.focal_map(z[0, :, 0, 0], 1.0), flat[0, :, 0, 0])
    torch.testing.assert_close(fnn.focal_map(z, torch.ones(2, 1, 3, 5)), flat)
    with pytest.raises(ValueError, match="The map has one gamma a row"):
        fnn.focal_map(z, torch.ones(4))
    with pytest.raises(ValueError, match="Expected a finite gamma >= -1"):
        fnn.inverse_focal_map(z, -2.0)
    with pytest.raises(ValueError, match="Expected a finite gamma >= -1"):
        fnn.focal_map(z, np.float32(-2))


def test_the_layer_frozen_and_learnt():
    z = torch.randn(400, 3, dtype=torch.double) * 2
    frozen = fnn.FocalCalibrationMap(1.5)
    torch.testing.assert_close(frozen(z), fnn.focal_map(z, 1.5))
    assert not list(frozen.parameters())
    other = fnn.FocalCalibrationMap(0.0)
    other.load_state_dict(frozen.state_dict())
    torch.testing.assert_close(other(z), frozen(z))
    learnt = fnn.FocalCalibrationMap(0.1, learnable=True).double()
    assert [name for name, p in learnt.named_parameters() if p.requires_grad] == ["log1p_gamma"]
    y = torch.distributions.Categorical(logits=frozen(z)).sample()
    optimizer = torch.optim.LBFGS(learnt.parameters(), line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.nll_loss(learnt(z), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert 0.8 < learnt.gamma < 2.5
    torch.testing.assert_close(copy.deepcopy(learnt)(z), learnt(z))
    assert fnn.focal_map(torch.zeros(0, 3, 2, 5), 1.0).shape == (0, 3, 2, 5)
    assert "learnable=True" in repr(learnt)
    with pytest.raises(ValueError, match="Expected gamma > -1 for a learnable map"):
        fnn.FocalCalibrationMap(-1, learnable=True)


def test_the_value_by_hand():
    p = fnn.focal_map(torch.log(torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.double)), 3.0)
    assert float(fnn.proper_focal_loss(p, torch.tensor([1]), 3.0)) == pytest.approx(-(0.7**3) * math.log(0.3))
