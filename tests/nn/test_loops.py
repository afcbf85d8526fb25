"""The compiled losses against the formulas in torch, and what is left to torch."""

import itertools
import weakref
from functools import partial

import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from focalcal import kernels  # noqa: E402
from focalcal import nn as fnn  # noqa: E402
from focalcal.nn import _compiled  # noqa: E402

pytestmark = pytest.mark.skipif(kernels.describe() == "NumPy", reason="the compiled loops are not in use")


def adafocal(z, y, **options):
    loss = fnn.AdaFocalLoss(bins=4, **options)
    loss.gamma.copy_(torch.tensor([3.0, -1.5, 0.5, 0.0]))
    return loss(z, y)


LOSSES = {
    "focal": lambda z, y, **o: fnn.focal_loss(z, y, 2.0, **o),
    "focal 0.5": lambda z, y, **o: fnn.focal_loss(z, y, 0.5, **o),
    "inverse": lambda z, y, **o: fnn.inverse_focal_loss(z, y, 3.0, **o),
    "flsd": fnn.flsd_loss,
    "brier": fnn.brier_loss,
    "dual": lambda z, y, **o: fnn.dual_focal_loss(z, y, 5.0, **o),
    "proper": lambda z, y, **o: fnn.proper_focal_loss(z, y, 1.0, **o),
    "adafocal": adafocal,
}


class Recorder(TorchDispatchMode):
    """What counts operations or follows shapes sees torch's operations only."""

    found = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.found += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture
def calls(monkeypatch):
    """Count what the loops do, and let a test turn them off."""
    found = {"loops": 0, "on": True}
    plain, apply = _compiled._plain, _compiled._CompiledLoss.apply

    def counted(*arguments):
        found["loops"] += 1
        return apply(*arguments)

    monkeypatch.setattr(_compiled, "_plain", lambda values: found["on"] and plain(values))
    monkeypatch.setattr(_compiled._CompiledLoss, "apply", counted)
    return found


def both(calls, function):
    """Return what a function gives by the loops, and by the formulas."""
    calls["on"], before = True, calls["loops"]
    first = function()
    assert calls["loops"] > before
    calls["on"], before = False, calls["loops"]
    second = function()
    assert calls["loops"] == before
    return first, second


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
def test_loops_equal_formulas(calls, name, dtype, reduction, weighted):
    z = (torch.randn(3, 6, 4, 2, dtype=torch.double) * 3).to(dtype).requires_grad_()
    y = torch.randint(6, (3, 4, 2))
    y[0, :2] = -100
    weight = torch.rand(6) if weighted else None
    upstream = torch.randn(y.shape if reduction == "none" else ())

    def value_and_gradient():
        loss = LOSSES[name](z, y, weight=weight, reduction=reduction)
        return loss.detach(), *torch.autograd.grad(loss, z, upstream.to(loss.dtype))

    tight = {"rtol": 1e-9, "atol": 1e-12} if dtype == torch.double else {"rtol": 2e-5, "atol": 2e-6}
    if dtype == torch.bfloat16:
        tight = {"rtol": 1e-2, "atol": 1e-6}  # the gradient is rounded to it
    for found, expected in zip(*both(calls, value_and_gradient)):
        torch.testing.assert_close(found, expected, **tight)


@pytest.mark.parametrize("name", LOSSES)
def test_second_derivatives_equal_formulas(calls, name):
    z = torch.randn(7, 5, dtype=torch.double, requires_grad=True)
    y, v = torch.randint(5, (7,)), torch.randn(7, 5, dtype=torch.double)

    def product():
        (gradient,) = torch.autograd.grad(LOSSES[name](z, y), z, create_graph=True)
        return torch.autograd.grad((gradient * v).sum(), z)[0]

    torch.testing.assert_close(*both(calls, product), rtol=1e-10, atol=1e-13)


def test_the_backward_pass_of_a_network(calls):
    layer, x, y = torch.nn.Linear(3, 4), torch.randn(20, 3), torch.randint(4, (20,))

    def gradients():
        layer.zero_grad()
        loss = fnn.focal_loss(layer(x), y)
        loss.backward(retain_graph=True)
        loss.backward()  # adds the same once more
        return torch.cat([p.grad.flatten() for p in layer.parameters()]).clone()

    torch.testing.assert_close(*both(calls, gradients))

    def offloaded():
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t.clone()):
            loss = fnn.focal_loss(layer(x), y)
        return torch.autograd.grad(loss, layer.weight)[0]

    torch.testing.assert_close(*both(calls, offloaded))


def test_views_and_expanded_gradients(calls):
    wide = torch.randn(10, 8, dtype=torch.double, requires_grad=True)
    y = (torch.arange(20) % 4)[::2]

    def summed():  # backward of sum() is an expanded tensor; labels are strided
        return torch.autograd.grad(fnn.focal_loss(wide[:, :4].contiguous(), y, reduction="none").sum(), wide)[
            0
        ]

    torch.testing.assert_close(*both(calls, summed))
    before = calls["loops"]
    calls["on"] = True
    fnn.focal_loss(wide[:, :4], y)  # strided logits
    fnn.focal_loss(wide[:, :4].contiguous(), y, torch.ones(4))  # γ as a tensor
    fnn.focal_loss(wide[:, :4].contiguous(), y, -0.5)
    assert calls["loops"] == before


@pytest.mark.parametrize("name", ["focal", "dual", "adafocal"])
def test_a_network_that_diverged_shows_it(name):
    z = torch.randn(4, 3)
    z[1, 2] = torch.nan
    assert LOSSES[name](z, torch.tensor([0, 0, 1, 2])).isnan()
    assert not LOSSES[name](z, torch.tensor([0, -100, 1, 2])).isnan()


@pytest.mark.parametrize("wrong", [3, -1])
@pytest.mark.parametrize("name", ["focal", "dual", "adafocal", "brier"])
def test_labels_out_of_range_are_refused(name, wrong):
    with pytest.raises(ValueError, match=rf"Expected labels from 0 to 2, .*ignore_index=-100, got {wrong}\."):
        LOSSES[name](torch.randn(4, 3), torch.tensor([0, 1, -100, wrong]))


def test_nothing_and_only_ignored_rows(calls):
    z, y = torch.randn(2, 3, requires_grad=True), torch.full((2,), -100)
    for n, reduction in itertools.product((0, 2), ("mean", "sum")):
        first, second = both(calls, partial(fnn.focal_loss, z[:n], y[:n], reduction=reduction))
        torch.testing.assert_close(first, second, equal_nan=True)


def test_inference_mode_and_no_grad(calls):
    z, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    with torch.inference_mode():
        first, second = both(calls, lambda: fnn.focal_loss(z, y))
    torch.testing.assert_close(first, second)
    assert not first.requires_grad


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_forward_mode_and_dispatch_modes_take_the_formulas(calls):
    z, y = torch.randn(5, 3, dtype=torch.double), torch.tensor([0, 1, 2, 0, 1])
    _, tangent = torch.func.jvp(lambda z: fnn.focal_loss(z, y), (z,), (torch.ones_like(z),))
    torch.testing.assert_close(tangent, torch.zeros((), dtype=torch.double), atol=1e-14, rtol=0)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(z, torch.ones_like(z))
        assert torch.autograd.forward_ad.unpack_dual(fnn.focal_loss(dual, y)).tangent is not None
    with Recorder() as recorder:
        fnn.focal_loss(z, y)
    assert recorder.found
    assert calls["loops"] == 0


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0, 20.0])
@pytest.mark.parametrize("k", [2, 3, 10, 100])
def test_the_inverse_map_and_its_gradient_equal_the_formulas(calls, gamma, k):
    z = torch.randn(50, k, dtype=torch.double) * torch.logspace(-1, 2, 50, dtype=torch.double)[:, None]
    z[:5, 0] = -torch.inf
    z.requires_grad_()
    by = torch.rand_like(z)

    def value_and_gradient():
        log_q = fnn.inverse_focal_map(z, gamma)
        return log_q.detach(), torch.autograd.grad(log_q.masked_fill(z.isneginf(), 0.0), z, by)[0]

    calls["on"] = True
    found = value_and_gradient()
    calls["on"] = False
    for a, b in zip(found, value_and_gradient()):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["focal", "flsd", "dual", "proper"])
def test_a_default_device_does_not_move_what_the_loops_write(name):
    z, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    expected = LOSSES[name](z, y)
    fnn.SteppedGamma.steps.cache_clear()
    with torch.device("meta"):
        torch.testing.assert_close(LOSSES[name](z, y), expected)


@pytest.mark.parametrize("name", ["focal", "dual", "adafocal"])
def test_labels_and_weights_of_another_device_are_refused(name):
    z, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    for labels, weight in ((y.to("meta"), None), (y, torch.ones(3, device="meta"))):
        with pytest.raises(RuntimeError, match="device"):
            LOSSES[name](z, labels, weight=weight)


def test_negated_views_are_read_as_what_they_stand_for():
    z, y, w = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1]), torch.rand(3)
    found = fnn.focal_loss(torch._neg_view(z), y, weight=torch._neg_view(w))
    torch.testing.assert_close(found, fnn.focal_loss(-z, y, weight=-w))


def test_adafocal_bins_of_another_precision():
    z, y, loss = torch.randn(50, 3), torch.arange(50) % 3, fnn.AdaFocalLoss(bins=4)
    loss.update(2 * z, y)  # no row lies on an edge, which is rounded
    expected = loss(z, y)
    loss.load_state_dict({k: v.float() for k, v in loss.state_dict().items()}, assign=True)
    torch.testing.assert_close(loss(z, y), expected)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_batch_of_gradients_at_once(name, reduction):
    z, y = torch.randn(4, 3, dtype=torch.double, requires_grad=True), torch.tensor([0, 1, 2, 0])
    loss = LOSSES[name](z, y, reduction=reduction)
    many = torch.randn(6, *loss.shape, dtype=torch.double)
    (found,) = torch.autograd.grad(loss, z, many, is_grads_batched=True, retain_graph=True)
    for one, by in zip(found, many):
        torch.testing.assert_close(one, torch.autograd.grad(loss, z, by, retain_graph=True)[0])


def test_backward_frees_the_logits():
    z, y = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 1, 2, 0])
    logits = 2 * z
    alive, loss = weakref.ref(logits), fnn.focal_loss(logits, y)
    loss.backward()
    del logits
    assert alive() is None


@pytest.mark.parametrize("changed", ["logits", "labels", "weight"])
def test_what_changed_since_the_loss_is_noticed(changed):
    z, y, weight = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 1, 2, 0]), torch.ones(3)
    logits = 2 * z
    loss = fnn.focal_loss(logits, y, weight=weight)
    {"logits": logits.detach(), "labels": y, "weight": weight}[changed].zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, z, create_graph=True)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_the_gradient_of_a_gradient_that_moves():
    z, y = torch.randn(4, 3, dtype=torch.double, requires_grad=True), torch.tensor([0, 1, 2, 0])
    loss = fnn.focal_loss(z, y, reduction="none")
    by, moving = torch.rand(2, 4, dtype=torch.double)
    expected = torch.autograd.grad(loss, z, moving, retain_graph=True)[0]
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(by, moving)
        (found,) = torch.autograd.grad(loss, z, dual)
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(found).tangent, expected)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # the checks of shapes
@pytest.mark.parametrize("name", ["focal", "dual"])
def test_a_trace_takes_the_formulas(name):
    z, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    traced = torch.jit.trace(lambda z: LOSSES[name](z, y), (z,))
    torch.testing.assert_close(traced(2 * z), LOSSES[name](2 * z, y))
