"""Penalties and SAM in the loops that people have: accumulation, scaled gradients, several processes."""

import copy

import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from torch import nn  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

from focalcal.curvature import SAM, GradientNormPenalty, TracePenalty  # noqa: E402
from ranks import run_two_ranks  # noqa: E402


def problem(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    return net, torch.randn(8, 3, dtype=torch.double), torch.arange(8) % 2


def gradients(net):
    return [parameter.grad.clone() for parameter in net.parameters()]


def steps(net, loss, x, y):
    """Add the gradients of every way to control curvature."""
    GradientNormPenalty(0.1)(loss(net(x), y), getattr(net, "module", net)).backward()
    for matrix in ("ggn", "hessian"):
        (loss(net(x), y) + TracePenalty(0.1, matrix=matrix)(net, loss, x, y)).backward()
    SAM(net).backward(lambda: loss(net(x), y))


def test_the_trace_of_a_batch_is_the_mean_of_its_parts():
    net, x, y = problem()
    loss = nn.CrossEntropyLoss()
    TracePenalty(0.1, seed=3)(net, loss, x, y).backward()
    whole = gradients(net)
    net.zero_grad()
    for part in (slice(0, 4), slice(4, 8)):
        (TracePenalty(0.1, seed=3)(net, loss, x[part], y[part]) / 2).backward()  # the same signs
    for a, b in zip(gradients(net), whole, strict=True):
        torch.testing.assert_close(a, b)


def test_scaled_gradients_are_the_same():
    net, x, y = problem()
    net, x, loss = net.float(), x.float(), nn.CrossEntropyLoss()
    plain, scaled = copy.deepcopy(net), copy.deepcopy(net)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for model, scale in ((plain, lambda value: value), (scaled, scaler.scale)):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for kind in ("penalty", "sam"):
            optimizer.zero_grad()
            if kind == "sam":
                SAM(model).backward(lambda model=model, scale=scale: scale(loss(model(x), y)))
            else:
                value = loss(model(x), y)
                value = value + TracePenalty(0.1)(model, loss, x, y) + GradientNormPenalty(0.1)(value, model)
                scale(value).backward()
            if model is scaled:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                scaler.step(optimizer)
                scaler.update()
            else:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
    for a, b, start in zip(plain.parameters(), scaled.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(a, b)
        assert not torch.equal(a, start)


def _rank(rank, path):
    net, x, y = problem()
    wrapped = DistributedDataParallel(net)
    steps(wrapped, nn.CrossEntropyLoss(), x[rank::2], y[rank::2])
    torch.save(gradients(net), f"{path}/{rank}.pt")


@pytest.mark.slow
def test_ranks_average_their_gradients(tmp_path):
    run_two_ranks(_rank, tmp_path, str(tmp_path))
    by_rank = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    alone = []
    for rank in range(2):
        net, x, y = problem()
        steps(net, nn.CrossEntropyLoss(), x[rank::2], y[rank::2])
        alone.append(gradients(net))
    for first, second, a, b in zip(*by_rank, *alone, strict=True):
        torch.testing.assert_close(first, second)
        torch.testing.assert_close(first, (a + b) / 2)


@pytest.mark.slow
def test_a_compiled_model_says_that_it_has_no_second_derivatives():
    net, x, y = problem()
    compiled = torch.compile(net, backend="aot_eager")
    with pytest.raises(RuntimeError, match="double backward"):
        TracePenalty(0.1, matrix="hessian")(compiled, nn.CrossEntropyLoss(), x, y).backward()
    with pytest.raises(RuntimeError, match="double backward"):
        GradientNormPenalty(0.1)(nn.functional.cross_entropy(compiled(x), y), compiled).backward()
    SAM(compiled).backward(lambda: nn.functional.cross_entropy(compiled(x), y))
    assert all(parameter.grad is not None for parameter in net.parameters())
