"""Every loss against cross-entropy, 60 digits, numerical derivatives and rows that are sure."""

import copy
import itertools
import pickle

import mpmath as mp
import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from torch.nn import functional as F  # noqa: E402

from focalcal import nn as fnn  # noqa: E402
from focalcal.nn import _curves  # noqa: E402

GAMMAS = [-1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 5.0]

#: Losses of (logits, labels) that are differentiated.
LOSSES = {
    **{f"focal {g}": lambda z, y, g=g, **o: fnn.focal_loss(z, y, g, **o) for g in GAMMAS},
    "inverse": lambda z, y, **o: fnn.inverse_focal_loss(z, y, 2.0, **o),
    "flsd": fnn.flsd_loss,
    "dual": lambda z, y, **o: fnn.dual_focal_loss(z, y, 2.0, **o),
    "dual 0.5": lambda z, y, **o: fnn.dual_focal_loss(z, y, 0.5, **o),
    "proper": lambda z, y, **o: fnn.proper_focal_loss(z, y, 2.0, **o),
    "proper 0.5": lambda z, y, **o: fnn.proper_focal_loss(z, y, 0.5, **o),
    "proper -0.5": lambda z, y, **o: fnn.proper_focal_loss(z, y, -0.5, **o),
    "brier": fnn.brier_loss,
}
#: Each loss, and those that know label smoothing with it; the dual focal loss is one of a label.
SMOOTHED = [(name, 0.0) for name in LOSSES] + [(name, 0.1) for name in LOSSES if not name.startswith("dual")]


def problem(n=6, n_classes=4, *rest, scale=2.0):
    z = torch.randn(n, n_classes, *rest, dtype=torch.double) * scale
    return z, torch.randint(n_classes, (n, *rest))


@pytest.mark.parametrize("name", ["focal", "inverse", "proper"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_gamma_zero_is_cross_entropy_with_every_option(name, reduction, smoothing, weighted, soft):
    z, y = problem(6, 4, 3)
    y[0, :2] = 3  # where ignored
    weight = torch.rand(4, dtype=torch.double) if weighted else None
    target = torch.softmax(torch.randn_like(z), 1) if soft else y
    options = {"weight": weight, "ignore_index": 3, "reduction": reduction, "label_smoothing": smoothing}
    if soft:
        options.pop("ignore_index")
    z.requires_grad_()
    expected = F.cross_entropy(z, target, **options)
    loss = {"focal": fnn.focal_loss, "inverse": fnn.inverse_focal_loss, "proper": fnn.proper_focal_loss}[name]
    for gamma in (0.0, torch.zeros((), dtype=torch.double)):
        found = loss(z, target, gamma, **options)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        for a, b in zip(*(torch.autograd.grad(v.sum(), z, retain_graph=True) for v in (found, expected))):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int8, torch.uint8])
def test_labels_and_weights_of_any_precision(gamma, dtype):
    z, y = problem()
    weight = torch.rand(4, dtype=torch.double)
    expected = fnn.focal_loss(z, y, gamma, weight).float()
    torch.testing.assert_close(fnn.focal_loss(z.float(), y.to(dtype), gamma, weight), expected)


@pytest.mark.parametrize("shape", [(5,), (3, 5), (3, 5, 2), (2, 5, 3, 2)])
def test_shapes_are_those_of_cross_entropy(shape):
    z = torch.randn(shape)
    y = torch.randint(5, shape[:0] if len(shape) == 1 else (shape[0], *shape[2:]))
    expected = F.cross_entropy(z, y, reduction="none")
    for loss in LOSSES.values():
        assert loss(z, y, reduction="none").shape == expected.shape
        assert loss(z, y).shape == ()
    torch.testing.assert_close(fnn.focal_loss(z, y, torch.tensor(0.0), reduction="none"), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_rows_cost_nothing_and_weights_weigh(name):
    z, y = problem(8, 4)
    z.requires_grad_()
    ignored = y.clone()
    ignored[::2] = -100
    rows = LOSSES[name](z, ignored, reduction="none")
    torch.testing.assert_close(rows[1::2], LOSSES[name](z[1::2], y[1::2], reduction="none"))
    assert (rows[::2] == 0).all()
    assert (torch.autograd.grad(rows.sum(), z)[0][::2] == 0).all()
    weight = torch.rand(4, dtype=torch.double)
    expected = (rows[1::2] * weight[y[1::2]]).sum() / weight[y[1::2]].sum()
    torch.testing.assert_close(LOSSES[name](z, ignored, weight=weight), expected)


@pytest.mark.parametrize(("name", "smoothing"), SMOOTHED)
def test_first_and_second_derivatives(name, smoothing):
    z, y = problem(4, 3)
    z.requires_grad_()
    options = {"label_smoothing": smoothing} if smoothing else {}
    assert torch.autograd.gradcheck(lambda z: LOSSES[name](z, y, **options), z)
    assert torch.autograd.gradgradcheck(lambda z: LOSSES[name](z, y, **options), z)


@pytest.mark.parametrize(("name", "smoothing"), SMOOTHED)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_everything_is_finite_for_sure_rows(name, dtype, smoothing):
    rows = [[1e4, 0, -5], [0, 1e4, 3], [1e4, 1e4, 0], [200, 0, 0], [-1e4, 1e4, 0], [17, 0, 0], [90, 0, 89.0]]
    z = torch.tensor(rows, dtype=dtype, requires_grad=True)
    y = torch.tensor([0, 0, 1, 0, 2, 0, 0])
    options = {"label_smoothing": smoothing} if smoothing else {}
    loss = LOSSES[name](z, y, reduction="sum", **options)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    (gradient,) = torch.autograd.grad(loss, z, create_graph=True)
    (product,) = torch.autograd.grad((gradient * torch.randn_like(z)).sum(), z)
    assert gradient.dtype == dtype
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert product.isfinite().all()


@pytest.mark.parametrize("gamma", [-1.0, -0.999, -0.5, 0.5, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_focal_loss_and_slope_equal_60_digits(gamma, dtype):
    gaps = [-2000.0, -30.0, 0.0, 1.0, 5.0, 17.0, 39.0, 41.0, 80.0, 700.0]
    s = torch.tensor(gaps, dtype=dtype, requires_grad=True)
    z = torch.stack([torch.zeros_like(s), s], 1)
    found = fnn.focal_loss(z, torch.ones(len(gaps), dtype=torch.long), gamma, reduction="none")
    (slope,) = torch.autograd.grad(found.sum(), s)
    with mp.workdps(700):

        def loss(v):
            return -((1 / (1 + mp.exp(v))) ** mp.mpf(gamma)) * -mp.log1p(mp.exp(-v))

        def derivative(v):
            u, w = 1 / (1 + mp.exp(v)), 1 / (1 + mp.exp(-v))
            return -(u ** mp.mpf(gamma)) * (u - gamma * w * mp.log(w))

        value = [float(loss(mp.mpf(g))) for g in gaps]
        first = [float(derivative(mp.mpf(g))) for g in gaps]
    tight = 1e-12 if dtype == torch.float64 else 3e-5  # float32: γ s is rounded before its exponential
    torch.testing.assert_close(found, torch.tensor(value, dtype=dtype), rtol=tight, atol=1e-37)
    torch.testing.assert_close(slope, torch.tensor(first, dtype=dtype), rtol=tight, atol=tight * 1e-2)


def test_formulas_by_hand():
    z, y = problem(30, 5)
    q = torch.softmax(z, 1)
    own = q.gather(1, y[:, None])[:, 0]
    below = torch.where(q < own[:, None], q, 0.0).amax(1)
    log = own.log()
    flsd = torch.where(own < 0.2, 5.0, 3.0)
    for found, expected in [
        (fnn.focal_loss(z, y, 1.5, reduction="none"), -((1 - own) ** 1.5) * log),
        (fnn.inverse_focal_loss(z, y, 1.5, reduction="none"), -((1 + own) ** 1.5) * log),
        (fnn.dual_focal_loss(z, y, 1.5, reduction="none"), -((1 - own + below) ** 1.5) * log),
        (fnn.flsd_loss(z, y, reduction="none"), -((1 - own) ** flsd) * log),
        (fnn.brier_loss(z, y, reduction="none"), ((q - F.one_hot(y, 5)) ** 2).sum(1)),
    ]:
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


def test_gamma_per_class_per_sample_and_learnt():
    z, y = problem(4, 4)
    per_class = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.double, requires_grad=True)
    for gamma, used in [(per_class, per_class[y]), (per_class.detach()[:, None], per_class.detach())]:
        found = fnn.focal_loss(z, y, gamma, reduction="none")
        own = torch.softmax(z, 1).gather(1, y[:, None])[:, 0]
        torch.testing.assert_close(found, -((1 - own) ** used) * own.log())
    assert torch.autograd.gradcheck(lambda g: fnn.focal_loss(z, y, g, label_smoothing=0.1), per_class)
    assert torch.autograd.gradcheck(lambda g: fnn.proper_focal_loss(z, y, g[:, None]), per_class)
    with pytest.raises(ValueError, match=r"Pass gamma.unsqueeze\(1\) for one a sample"):
        fnn.focal_loss(z, y, torch.ones(3))
    with pytest.raises(ValueError, match="proper part exists for one gamma in a row"):
        fnn.proper_focal_loss(z, y, torch.ones(4))


# forward-mode derivatives load decompositions that torch itself still compiles with TorchScript
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", LOSSES)
def test_function_transforms(name):
    z, y = problem(5, 3)
    per_row = torch.func.vmap(torch.func.grad(LOSSES[name]))(z, y)
    whole = torch.func.grad(lambda z: LOSSES[name](z, y, reduction="sum"))(z)
    torch.testing.assert_close(per_row, whole)
    hessian = torch.func.hessian(lambda z: LOSSES[name](z, y, reduction="sum"))(z)
    by_hand = torch.autograd.functional.hessian(lambda z: LOSSES[name](z, y, reduction="sum"), z)
    torch.testing.assert_close(hessian, by_hand)


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_computes_in_float32(name):
    z, y = problem(8, 5)
    z = z.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = LOSSES[name](z, y)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, LOSSES[name](z.detach().float(), y))
    found.backward()
    assert z.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "module",
    [
        fnn.FocalLoss(1.0, torch.rand(3), label_smoothing=0.1),
        fnn.InverseFocalLoss(1.0, reduction="sum"),
        fnn.FLSDLoss(),
        fnn.DualFocalLoss(),
        fnn.ProperFocalLoss(0.5),
        fnn.BrierLoss(torch.rand(3)),
    ],
    ids=lambda module: type(module).__name__,
)
def test_modules_equal_functions_and_survive_copies(module):
    function = {
        "FocalLoss": lambda z, y: fnn.focal_loss(z, y, 1.0, module.weight, label_smoothing=0.1),
        "InverseFocalLoss": lambda z, y: fnn.inverse_focal_loss(z, y, 1.0, reduction="sum"),
        "FLSDLoss": fnn.flsd_loss,
        "DualFocalLoss": fnn.dual_focal_loss,
        "ProperFocalLoss": lambda z, y: fnn.proper_focal_loss(z, y, 0.5),
        "BrierLoss": lambda z, y: fnn.brier_loss(z, y, module.weight),
    }[type(module).__name__]
    z, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    for twin in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(twin(z, y), function(z, y))
        assert type(module).__name__ in repr(twin)


def test_soft_targets_mix_and_masked_classes_without_mass_cost_nothing():
    z, _ = problem(3, 4)
    target = torch.eye(4, dtype=torch.double)[[0, 2, 3]]
    for loss in (fnn.focal_loss, fnn.proper_focal_loss, fnn.brier_loss):
        torch.testing.assert_close(loss(z, target), loss(z, torch.tensor([0, 2, 3])))
    z[:, 1] = -torch.inf
    assert fnn.focal_loss(z, target).isfinite()
    z.requires_grad_()
    for loss in (fnn.focal_loss, fnn.inverse_focal_loss, fnn.flsd_loss):
        (found,) = torch.autograd.grad(loss(z, target), z)
        (expected,) = torch.autograd.grad(loss(z, torch.tensor([0, 2, 3])), z)
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        fnn.focal_loss(z, torch.tensor([0, 2, 3])), fnn.focal_loss(z[:, [0, 2, 3]], torch.tensor([0, 1, 2]))
    )


def test_wrong_input_is_named():
    z, y = problem(3, 4)
    for gamma, loss in [
        (-1.5, fnn.focal_loss),
        (-0.1, fnn.inverse_focal_loss),
        (float("nan"), fnn.focal_loss),
    ]:
        with pytest.raises(ValueError, match="Expected a finite gamma >="):
            loss(z, y, gamma)
    with pytest.raises(ValueError, match="Expected reduction 'none', 'mean' or 'sum', got 'average'"):
        fnn.focal_loss(z, y, reduction="average")
    with pytest.raises(ValueError, match=r"Expected a target of shape \(3,\)"):
        fnn.focal_loss(z, y[:2])
    with pytest.raises(ValueError, match=r"Expected weight of shape \(4,\)"):
        fnn.focal_loss(z, y, weight=torch.ones(3))
    with pytest.raises(ValueError, match=r"Expected label_smoothing in \[0, 1\]"):
        fnn.focal_loss(z, y, label_smoothing=2.0)
    with pytest.raises(ValueError, match="Expected floating-point logits"):
        fnn.focal_loss(y, y)
    with pytest.raises(ValueError, match="Expected class indices for the dual focal loss"):
        fnn.dual_focal_loss(z, z)
    with pytest.raises(ValueError, match=r"Expected increasing thresholds in \(0, 1\)"):
        fnn.SteppedGamma([0.5, 0.2], [1.0, 2.0, 3.0])


def test_curves_meet_where_they_should():
    s = torch.linspace(-50, 50, 101, dtype=torch.double)
    for gamma in (0.5, 2.0):
        both = torch.full_like(s, gamma)
        torch.testing.assert_close(_curves.signed_curve(s, both), _curves.focal_curve(s, gamma))
        torch.testing.assert_close(_curves.signed_curve(s, -both), _curves.inverse_focal_curve(s, gamma))
    for gamma, wide in itertools.product((-0.9, -0.5, 0.5, 3.0), (torch.float32, torch.float64)):
        number = _curves.log_w(s.to(wide), gamma)
        tight = {"rtol": 1e-4, "atol": 1e-5} if wide == torch.float32 else {}
        torch.testing.assert_close(
            _curves.log_w(s.to(wide), torch.tensor(gamma, dtype=wide)), number, **tight
        )
