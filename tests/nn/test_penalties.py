"""MMCE, the AURC weights and the sigmoid forms."""

import copy
import pickle
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from torch.nn import functional as F  # noqa: E402

from focalcal import nn as fnn  # noqa: E402


def test_mmce_is_the_double_sum():
    z, y = torch.randn(40, 3, dtype=torch.double), torch.randint(3, (40,))
    p = torch.softmax(z, 1).numpy()
    r, c = p.max(1), (p.argmax(1) == y.numpy()) * 1.0
    total = sum(
        (c[i] - r[i]) * (c[j] - r[j]) * np.exp(-abs(r[i] - r[j]) / 0.4) for i in range(40) for j in range(40)
    )
    assert float(fnn.mmce_penalty(z, y)) == pytest.approx(np.sqrt(total) / 40)
    assert float(fnn.mmce_penalty(z, y, squared=True)) == pytest.approx(total / 1600)
    y[::2] = -100
    torch.testing.assert_close(fnn.mmce_penalty(z, y), fnn.mmce_penalty(z[1::2], y[1::2]))
    z.requires_grad_()
    loss = fnn.MMCELoss(0.5, gamma=1.0)
    torch.testing.assert_close(loss(z, y), fnn.focal_loss(z, y, 1.0) + 0.5 * fnn.mmce_penalty(z, y))
    six = z.detach()[:6].requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, y[:6]), six)
    assert torch.autograd.gradgradcheck(lambda z: loss(z, y[:6]), six)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("loss", [fnn.mmce_loss, fnn.aurc_loss])
def test_penalties_are_finite_for_sure_rows(loss, dtype):
    z = torch.tensor([[1e4, 0, 3], [0, 1e4, 3], [1e4, 1e4, 0]], dtype=dtype, requires_grad=True)
    for y in (torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])):
        value = loss(z, y)
        (gradient,) = torch.autograd.grad(value, z, create_graph=True)
        (product,) = torch.autograd.grad((gradient * torch.randn_like(z)).sum(), z)
        for tensor in (value, gradient, product):
            assert tensor.isfinite().all()


@pytest.mark.parametrize("confidence", ["probability", "margin", "entropy"])
def test_aurc_weights_rise_with_confidence_up_to_the_quantile(confidence):
    z, y = torch.randn(300, 4, dtype=torch.double) * 2, torch.randint(4, (300,))
    rows = fnn.aurc_loss(z, y, 0.5, confidence, bins=256, smoothing=1e-3, reduction="none")
    weight = rows / F.cross_entropy(z, y, reduction="none")
    p = torch.softmax(z, 1)
    top2 = p.topk(2, dim=1).values
    x = {"probability": top2[:, 0], "margin": top2[:, 0] - top2[:, 1], "entropy": (p * p.log()).sum(1)}[
        confidence
    ]
    order = x.argsort()
    rank = torch.arange(1, 301) / 301
    expected = -torch.log1p(-rank.clamp(max=150 / 301)).double()
    assert (weight[order] - expected).abs().max() < 0.03
    assert (weight[order].diff() >= -1e-12).all()


def test_aurc_options():
    z, y = torch.randn(10, 4, dtype=torch.double), torch.randint(4, (10,))
    ignored = y.clone()
    ignored[:4] = -100
    torch.testing.assert_close(fnn.aurc_loss(z, ignored), fnn.aurc_loss(z[4:], y[4:]))
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: fnn.aurc_loss(z, y, 1.0), z)
    module = fnn.AURCLoss(0.3, "entropy")
    for twin in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(twin(z, y), fnn.aurc_loss(z, y, 0.3, "entropy"))
    for options in ({"quantile": 0.0}, {"bins": 0}, {"confidence": "energy"}):
        with pytest.raises(ValueError, match="Expected"):
            fnn.aurc_loss(z, y, **options)
    for loss in (fnn.aurc_loss, fnn.mmce_penalty):
        with pytest.raises(ValueError, match="Expected class indices"):
            loss(z, torch.softmax(z, 1))
    with pytest.raises(ValueError, match="The penalty is one number a batch"):
        fnn.mmce_loss(z, y, reduction="none")


BINARY = {
    "focal": (fnn.binary_focal_loss, fnn.focal_loss),
    "inverse": (fnn.binary_inverse_focal_loss, fnn.inverse_focal_loss),
    "dual": (fnn.binary_dual_focal_loss, fnn.dual_focal_loss),
    "proper": (fnn.binary_proper_focal_loss, fnn.proper_focal_loss),
}


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_binary_is_two_column_multiclass(name, gamma):
    binary, multiclass = BINARY[name]
    x = (torch.randn(5, 3, dtype=torch.double) * 3).requires_grad_()
    y = torch.randint(2, (5, 3))
    columns = torch.stack([torch.zeros_like(x), x], 1)
    expected = multiclass(columns, y, gamma, reduction="none")
    found = binary(x, y.double(), gamma, reduction="none")
    torch.testing.assert_close(found, expected)
    a, b = (torch.autograd.grad(v.sum(), x)[0] for v in (found, expected))
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(binary(x, y.double(), gamma), expected.mean())
    # a class against the other: the sign of the logit and the target change together
    torch.testing.assert_close(binary(-x, 1 - y.double(), gamma), binary(x, y.double(), gamma))


def test_binary_gamma_zero_is_binary_cross_entropy_with_weights():
    x, t = torch.randn(6, 4), torch.rand(6, 4)
    weight, positive = torch.rand(6, 4), torch.rand(4) * 3
    for reduction in ("mean", "sum", "none"):
        options = {"weight": weight, "pos_weight": positive, "reduction": reduction}
        expected = F.binary_cross_entropy_with_logits(x, t, **options)
        torch.testing.assert_close(fnn.binary_focal_loss(x, t, 0.0, **options), expected)
        module = fnn.BinaryLoss(fnn.proper_focal_loss, **options, gamma=0.0)
        torch.testing.assert_close(module(x, t), expected)
    with pytest.raises(ValueError, match="Expected a target of shape"):
        fnn.binary_focal_loss(x, t[:2])


def test_batches_without_a_row_that_counts():
    z, y = torch.randn(3, 4, requires_grad=True), torch.full((3,), -100)
    for rows in (slice(3), slice(0)):
        for loss in (fnn.mmce_penalty, partial(fnn.aurc_loss, reduction="sum")):
            found = loss(z[rows], y[rows])
            assert found == 0
            assert torch.equal(torch.autograd.grad(found, z)[0], torch.zeros_like(z))
