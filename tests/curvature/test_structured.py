"""The structured trace against dense matrices, and the Hessian in the logits against torch.func."""

import copy
import itertools

import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from focalcal import nn as fnn  # noqa: E402
from focalcal.curvature import LossSurface, hutchinson_trace, layer_traces, structured_trace  # noqa: E402
from focalcal.curvature.rows.logit_hessian import logit_hessian  # noqa: E402

WEIGHT = torch.tensor([0.5, 1.0, 2.0], dtype=torch.double)


def adafocal():
    loss = fnn.AdaFocalLoss(bins=3)
    loss.gamma.copy_(torch.tensor([3.0, -1.5, 0.5]))
    return loss


LOSSES = {
    "cross-entropy": nn.CrossEntropyLoss(),
    "weighted": nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=2),
    "focal 0.5": fnn.FocalLoss(0.5),
    "focal 5": fnn.FocalLoss(5.0, weight=WEIGHT),
    "inverse": fnn.InverseFocalLoss(2.0),
    "flsd": fnn.FLSDLoss(),
    "adafocal": adafocal(),
}


def dense(hessian):
    """The rows' Hessians as matrices (n, C, C)."""
    share, slope, bend = hessian.share, hessian.slope, hessian.bend
    along = F.one_hot(hessian.label, share.shape[1]) - share
    spread = torch.diag_embed(share) - share[:, :, None] * share[:, None, :]
    return slope[:, None, None] * spread + bend[:, None, None] * along[:, :, None] * along[:, None, :]


@pytest.mark.parametrize("name", LOSSES)
def test_the_hessian_in_the_logits(name):
    loss = copy.copy(LOSSES[name])
    z, y = torch.randn(12, 3, dtype=torch.double) * 3, torch.arange(12) % 3
    loss.reduction = "sum"
    weight = None if loss.weight is None else loss.weight.clone()
    found = logit_hessian(loss, z, y)
    assert loss.weight is None or torch.equal(loss.weight, weight)  # the loss is as it was
    exact = torch.func.hessian(lambda z: loss(z, y))(z)[range(12), :, range(12)]
    torch.testing.assert_close(dense(found), exact, rtol=1e-9, atol=1e-12)
    if name.startswith("focal"):
        assert (found.bend < 0).any()  # it is not convex in the logits
    patterns = itertools.product((-1.0, 1.0), repeat=3)
    pairs = [found.sketch(torch.tensor(signs, dtype=torch.double).expand(12, 3)) for signs in patterns]
    mean = sum(w[:, :, None] * other[:, None, :] for w, other in pairs) / len(pairs)
    torch.testing.assert_close(mean, dense(found))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_sure_rows_have_finite_hessians(gamma):
    z = torch.tensor([[1e4, 0, -5], [0, 1e4, 3], [-1e4, 1e4, 0]])
    for part in logit_hessian(fnn.FocalLoss(gamma), z, torch.tensor([0, 0, 2])):
        assert part.isfinite().all()


def problem(loss):
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    x, y = torch.randn(40, 4, dtype=torch.double), torch.arange(40) % 3
    return LossSurface(net, loss, [(x[:17], y[:17]), (x[17:], y[17:])])


@pytest.mark.parametrize("name", LOSSES)
def test_the_trace_of_a_piecewise_linear_network(name):
    surface = problem(LOSSES[name])
    eye = torch.eye(surface.size, dtype=torch.double)
    truth = float(surface.ggn_product(eye).trace())
    assert float(surface.hessian_product(eye).trace()) == pytest.approx(truth, rel=1e-9)
    found = structured_trace(surface, sketches=300)
    assert abs(found.value - truth) < 4 * found.stderr
    assert found.stderr < 0.1 * truth
    assert found.low < found.value < found.high
    assert structured_trace(surface, sketches=3, seed=1) == structured_trace(surface, sketches=3, seed=1)


@pytest.mark.parametrize("name", ["cross-entropy", "focal 5"])
def test_the_blocks_of_single_tensors(name):
    surface = problem(LOSSES[name])
    diagonal = surface.hessian_product(torch.eye(surface.size, dtype=torch.double)).diagonal()
    found = layer_traces(surface, sketches=100)
    assert list(found) == list(surface.parameters.names)
    for own, part in zip(found.values(), diagonal.split([24, 6, 18, 3]), strict=True):
        assert abs(own.value - part.sum()) < 4 * own.stderr
        assert own.data_stderr > 0 < own.stderr
    whole = structured_trace(surface, sketches=100)
    assert sum(own.value for own in found.values()) == pytest.approx(whole.value, rel=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_by_classes_it_is_exact(name):
    surface = problem(LOSSES[name])
    truth = float(surface.ggn_product(torch.eye(surface.size, dtype=torch.double)).trace())
    found = structured_trace(surface, by="classes")
    assert found.value == pytest.approx(truth, rel=1e-9)
    assert found.stderr == 0
    assert found.data_stderr > 0


@pytest.mark.parametrize("name", LOSSES)
def test_sketches_of_batches(name):
    surface = problem(LOSSES[name])
    exact = structured_trace(surface, by="classes").value
    found = structured_trace(surface, sketches=300, by="batches")
    assert abs(found.value - exact) < 4 * found.stderr


def test_it_varies_less_than_probes_of_the_same_matrix():
    surface = problem(nn.CrossEntropyLoss())
    sketched = structured_trace(surface, sketches=200)
    probed = hutchinson_trace(surface, probes=200, matrix="ggn")
    assert abs(sketched.value - probed.value) < 4 * (sketched.stderr**2 + probed.stderr**2) ** 0.5
    assert sketched.stderr < probed.stderr


def test_images_of_labels():
    torch.manual_seed(1)
    net = nn.Conv2d(2, 3, 1).double()
    x, y = torch.randn(5, 2, 4, 3, dtype=torch.double), torch.randint(3, (5, 4, 3))
    y[0] = -100
    surface = LossSurface(net, nn.CrossEntropyLoss(), [(x[:2], y[:2]), (x[2:], y[2:])])
    truth = float(surface.ggn_product(torch.eye(surface.size, dtype=torch.double)).trace())
    found = structured_trace(surface, sketches=300)
    assert abs(found.value - truth) < 4 * found.stderr


def test_losses_that_it_does_not_know():
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.1)
    for loss in (nn.MSELoss(), smoothed, fnn.DualFocalLoss(), F.cross_entropy):
        with pytest.raises(ValueError, match=r"Expected one of CrossEntropyLoss, .*Use hutchinson_trace"):
            structured_trace(problem(loss))
    with pytest.raises(ValueError, match=r"Expected class indices, got torch\.float64"):
        logit_hessian(nn.CrossEntropyLoss(), torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.double) / 3)
    with pytest.raises(ValueError, match="Expected at least 2 sketches"):
        structured_trace(problem(nn.CrossEntropyLoss()), sketches=1)
