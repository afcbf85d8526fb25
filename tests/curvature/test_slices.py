"""Slices of losses that are known by hand, and the filter normalisation."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import focalcal  # noqa: E402
from focalcal import nn as fnn  # noqa: E402
from focalcal.curvature import LossSurface, landscape, slices  # noqa: E402


def problem(loss=None):
    net = nn.Sequential(
        nn.Conv1d(1, 3, 2), nn.BatchNorm1d(3), nn.ReLU(), nn.Flatten(), nn.Linear(9, 3)
    ).double()
    net(torch.randn(20, 1, 4, dtype=torch.double))
    x, y = torch.randn(10, 1, 4, dtype=torch.double), torch.arange(10) % 3
    return net, LossSurface(net, loss or fnn.FocalLoss(2.0), [(x[:7], y[:7]), (x[7:], y[7:])]), x, y


def test_every_number_at_every_point():
    net, surface, x, y = problem()
    torch.manual_seed(1)
    first, second = torch.randn(2, surface.size, dtype=torch.double)
    found = landscape(surface, [first, second], span=0.5, points=3)
    np.testing.assert_array_equal(found.offsets, [-0.5, 0, 0.5])
    for i, a in enumerate(found.offsets):
        for j, b in enumerate(found.offsets):
            other = copy.deepcopy(net).eval()
            parts = surface.parameters.split(a * first + b * second)
            with torch.no_grad():
                for parameter, part in zip(other.parameters(), parts, strict=True):
                    parameter.add_(part)
                z = other(x)
            assert found.loss[i, j] == pytest.approx(fnn.focal_loss(z, y, 2.0).item())
            assert found.cross_entropy[i, j] == pytest.approx(F.cross_entropy(z, y).item())
            judged = focalcal.evaluate(y.numpy(), z.numpy(), input="logits")
            assert found.accuracy[i, j] == pytest.approx(judged["accuracy"].value)
            assert found.ece[i, j] == pytest.approx(judged["ece"].value)


def test_random_directions_are_as_long_as_the_filters():
    net, surface, _, _ = problem()
    (direction,) = slices._directions(surface.parameters, 1, seed=3)
    for tensor, part in zip(net.parameters(), direction, strict=True):
        if tensor.dim() == 1:
            assert not part.any()
        else:
            torch.testing.assert_close(part.flatten(1).norm(dim=1), tensor.flatten(1).norm(dim=1))
    by_hand = landscape(surface, [surface.parameters.join(direction)], points=5).loss
    np.testing.assert_allclose(landscape(surface, 1, points=5, seed=3).loss, by_hand, rtol=1e-12)
    assert not np.allclose(landscape(surface, 1, points=5, seed=4).loss, by_hand)


def test_scales_that_batch_norm_leaves_free_do_not_show():
    net, surface, _, _ = problem()
    before = landscape(surface, 2, points=3).loss
    with torch.no_grad():
        net[0].weight.mul_(7)
        net[0].bias.mul_(7)
        net[1].running_mean.mul_(7)
        net[1].running_var.mul_(49).add_(48 * net[1].eps)
    np.testing.assert_allclose(landscape(surface, 2, points=3).loss, before, rtol=1e-9)


def test_the_model_is_as_it_was_also_after_an_exception():
    net, surface, x, y = problem()
    net.train()
    net[0].eval()
    before, modes = copy.deepcopy(net.state_dict()), [module.training for module in net.modules()]
    landscape(surface, 1, points=3)

    class Interrupted:
        def __iter__(self):
            yield x, y
            raise RuntimeError("interrupted")

    broken = LossSurface(net, nn.CrossEntropyLoss(), Interrupted())
    with pytest.raises(RuntimeError, match="interrupted"):
        landscape(broken, 1, points=3)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes


def test_the_loader_is_read_once_and_ignored_rows_do_not_count():
    net, _, x, y = problem()
    reads = []

    class Loader:
        def __iter__(self):
            reads.append(1)
            yield x, torch.where(y == 2, -100, y)

    found = landscape(LossSurface(net, nn.CrossEntropyLoss(), Loader()), 2, points=3)
    assert len(reads) == 1
    kept = landscape(LossSurface(net, nn.CrossEntropyLoss(), [(x[y != 2], y[y != 2])]), 2, points=3)
    for name, value in kept.to_dict().items():
        np.testing.assert_allclose(found.to_dict()[name], value, rtol=1e-12)
    np.testing.assert_allclose(found.loss, found.cross_entropy)


def test_pictures_of_lines_and_planes():
    pytest.importorskip("matplotlib").use("agg")
    import matplotlib.pyplot as plt

    _, surface, _, _ = problem()
    line, plane = landscape(surface, 1, points=5), landscape(surface, 2, points=5)
    ax = line.plot(what="ece")
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), line.ece)
    assert ax.get_ylabel() == "ECE"
    assert plane.plot(plt.figure().gca()).get_ylabel() == "offset along the first"
    plt.close("all")


def test_wrong_settings():
    net, surface, x, _ = problem()
    for directions, match in (
        (3, "Expected 1 or 2 directions, got 3"),
        ([torch.ones(4)], r"got shapes \[\(4,\)\]"),
    ):
        with pytest.raises(ValueError, match=match):
            landscape(surface, directions)
    with pytest.raises(ValueError, match="Expected points odd and at least 3"):
        landscape(surface, points=4)
    with pytest.raises(ValueError, match="Expected span finite and above 0"):
        landscape(surface, span=0)
    with pytest.raises(ValueError, match="Expected a surface in eval mode"):
        landscape(LossSurface(net, nn.CrossEntropyLoss(), [], mode="train"))
    with pytest.raises(ValueError, match="Expected rows to measure, got none"):
        landscape(LossSurface(net, nn.CrossEntropyLoss(), []))
    other = landscape(LossSurface(net, nn.MSELoss(), [(x, torch.zeros(10, 3, dtype=torch.double))]), points=3)
    assert other.to_dict()["accuracy"] is None
    with pytest.raises(ValueError, match="Expected ece of class indices"):
        other.plot(what="ece")
    with pytest.raises(ValueError, match="Expected what to be one of"):
        other.plot(what="brier")
