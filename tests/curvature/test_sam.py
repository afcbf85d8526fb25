"""SAM against its formula by hand, and what it leaves alone."""

import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from torch import nn  # noqa: E402

from focalcal.curvature import SAM  # noqa: E402


def problem():
    net = nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3)
    ).double()
    return net, torch.randn(8, 4, dtype=torch.double), torch.arange(8) % 3


def quadratic(start, matrix):
    """½ θᵀAθ of the weights of a layer."""
    net = nn.Linear(3, 1, bias=False).double()
    net.weight.data.copy_(start)
    return net, lambda: 0.5 * (net.weight @ matrix * net.weight).sum()


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_gradient_of_a_quadratic(adaptive):
    matrix = torch.tensor([[3.0, 1, 0], [1, 2, 0.5], [0, 0.5, 1]], dtype=torch.double)
    start = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.double)
    net, closure = quadratic(start, matrix)
    found = SAM(net, rho=0.3, adaptive=adaptive).backward(closure)
    slope = start @ matrix
    uphill = start.square() * slope / (start * slope).norm() if adaptive else slope / slope.norm()
    torch.testing.assert_close(net.weight.grad, (start + 0.3 * uphill) @ matrix, rtol=1e-6, atol=0)
    assert found.item() == pytest.approx(float(0.5 * (start @ matrix * start).sum()))
    assert torch.equal(net.weight.data, start)


def test_nothing_but_gradients_is_changed_twice():
    net, x, y = problem()
    plain, loss = {name: value.clone() for name, value in net.state_dict().items()}, nn.CrossEntropyLoss()
    torch.manual_seed(3)
    once = loss(net(x), y)
    after, noise = {name: value.clone() for name, value in net.state_dict().items()}, torch.get_rng_state()
    net.load_state_dict(plain)
    torch.manual_seed(3)
    seen = []

    def closure():
        value = loss(net(x), y)
        seen.append((value.item(), torch.get_rng_state()))
        return value

    assert SAM(net).backward(closure) == once
    assert all(torch.equal(after[name], value) for name, value in net.state_dict().items())
    assert torch.equal(noise, torch.get_rng_state())
    assert torch.equal(seen[0][1], seen[1][1])  # the same dropout
    assert seen[1][0] > seen[0][0]  # uphill


def test_parameters_come_back_after_an_exception():
    net, x, y = problem()
    before, calls = {name: value.clone() for name, value in net.state_dict().items()}, []

    def closure():
        calls.append(1)
        if len(calls) == 2:
            net[1].running_mean.add_(1)
            raise RuntimeError("interrupted")
        return nn.functional.cross_entropy(net.eval()(x), y)

    with pytest.raises(RuntimeError, match="interrupted"):
        SAM(net).backward(closure)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_gradients_accumulate_and_scale():
    net, x, y = problem()
    net.eval()
    loss, sam = nn.CrossEntropyLoss(), SAM(net, rho=0.1)
    single = []
    for part in (slice(0, 4), slice(4, 8)):
        net.zero_grad()
        sam.backward(lambda part=part: loss(net(x[part]), y[part]))
        single.append([p.grad.clone() for p in net.parameters()])
    net.zero_grad()
    for part in (slice(0, 4), slice(4, 8)):
        sam.backward(lambda part=part: 1024 * loss(net(x[part]), y[part]))  # as a GradScaler has it
    for p, first, second in zip(net.parameters(), *single, strict=True):
        torch.testing.assert_close(p.grad / 1024, first + second)


def test_at_a_minimum_and_with_unused_parameters():
    net, closure = quadratic(torch.zeros(1, 3, dtype=torch.double), torch.eye(3, dtype=torch.double))
    net.unused = nn.Parameter(torch.ones(2))
    SAM(net).backward(closure)
    assert torch.equal(net.weight.grad, torch.zeros(1, 3, dtype=torch.double))
    assert net.unused.grad is None


def test_wrong_settings():
    net, x, y = problem()
    with pytest.raises(ValueError, match="Expected rho finite and above 0, got 0"):
        SAM(net, rho=0)
    with pytest.raises(
        ValueError, match=r"Expected a closure that returns the loss as one number, got shape \(8,\)"
    ):
        SAM(net).backward(lambda: nn.functional.cross_entropy(net(x), y, reduction="none"))
    with pytest.raises(ValueError, match=r"Expected a closure .* got NoneType"):
        SAM(net).backward(lambda: None)
    with pytest.raises(ValueError, match="Expected a model with trained parameters"):
        SAM(net.requires_grad_(False)).backward(lambda: net(x).sum())
