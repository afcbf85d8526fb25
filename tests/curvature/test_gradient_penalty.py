"""The penalty's gradient is H g / ‖g‖, with H from torch.func."""

import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from focalcal.curvature import GradientNormPenalty  # noqa: E402


def problem():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    return net, torch.randn(6, 3, dtype=torch.double), torch.arange(6) % 2


@pytest.mark.parametrize("chosen", [None, "2"])
def test_the_gradient_of_the_norm(chosen):
    net, x, y = problem()
    names = [name for name, _ in net.named_parameters() if chosen is None or name.startswith(chosen)]
    at = torch.cat([net.get_parameter(name).detach().flatten() for name in names])

    def value(vector):
        parts = vector.split([net.get_parameter(name).numel() for name in names])
        tensors = {n: part.reshape(net.get_parameter(n).shape) for n, part in zip(names, parts, strict=True)}
        return F.cross_entropy(torch.func.functional_call(net, tensors, x), y)

    net.requires_grad_(False)
    slope, hessian = torch.func.grad(value)(at), torch.func.hessian(value)(at)
    net.requires_grad_(True)
    found = GradientNormPenalty(0.3, parameters=chosen)(F.cross_entropy(net(x), y), net)
    assert found.item() == pytest.approx(0.3 * float(slope.norm()))
    found.backward()
    grad = torch.cat([net.get_parameter(name).grad.flatten() for name in names])
    torch.testing.assert_close(grad, 0.3 * hessian @ slope / slope.norm())


def test_through_batch_norm_in_train_mode():
    net, x, y = problem()
    net = nn.Sequential(nn.BatchNorm1d(3), net).double().train()

    def gradient_norm(weight):
        value = F.cross_entropy(torch.func.functional_call(net, {"0.weight": weight}, x), y)
        return torch.autograd.grad(value, list(net[1].parameters()), create_graph=True)

    def norm(weight):
        return torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradient_norm(weight)]))

    weight = net[0].weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(norm, (weight,))
    (truth,) = torch.autograd.grad(norm(weight), weight)
    GradientNormPenalty(1.0, parameters="1")(F.cross_entropy(net(x), y), net).backward()
    torch.testing.assert_close(net[0].weight.grad, truth)


def test_every_kth_call_and_its_state():
    net, x, y = problem()
    penalty, each = GradientNormPenalty(0.5, every=2), GradientNormPenalty(0.5)
    loss = F.cross_entropy(net(x), y)
    assert penalty(loss, net) == 0
    resumed = GradientNormPenalty(0.5, every=2)
    resumed.load_state_dict(penalty.state_dict())
    assert resumed(loss, net) == 2 * each(loss, net)


def test_at_a_minimum_its_gradient_is_zero():
    net = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(net.weight)
    GradientNormPenalty(1.0)(net(torch.ones(1, 2)).square().sum(), net).backward()
    assert torch.equal(net.weight.grad, torch.zeros(1, 2))


def test_wrong_settings():
    net, x, y = problem()
    with pytest.raises(ValueError, match="Expected weight finite and above 0, got 0"):
        GradientNormPenalty(0)
    with pytest.raises(ValueError, match=r"Expected the loss as one number with its graph, got shape \(6,\)"):
        GradientNormPenalty(1.0)(F.cross_entropy(net(x), y, reduction="none"), net)
    with pytest.raises(ValueError, match="requires_grad=False"):
        GradientNormPenalty(1.0)(F.cross_entropy(net(x), y).detach(), net)
