"""Estimates of traces: exact where they can be, unbiased, and with errors that are what they say."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from torch import nn  # noqa: E402

from curvature.dense import Problem  # noqa: E402
from focalcal import nn as fnn  # noqa: E402
from focalcal.curvature import (  # noqa: E402
    LossSurface,
    hutch_pp_trace,
    hutchinson_trace,
    structured_trace,
    xtrace,
)
from focalcal.curvature.rows.forms import RowForms  # noqa: E402

WEIGHT = torch.tensor([0.5, 1.0, 2.0, 0.1], dtype=torch.double)


def adafocal():
    loss = fnn.AdaFocalLoss(bins=3)
    loss.gamma.copy_(torch.tensor([3.0, -1.5, 0.5]))
    return loss


LOSSES = {
    "cross-entropy": nn.CrossEntropyLoss(),
    "weighted": nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=2),
    "focal 0.5": fnn.FocalLoss(0.5),
    "focal 5": fnn.FocalLoss(5.0, weight=WEIGHT, ignore_index=1),
    "inverse": fnn.InverseFocalLoss(2.0),
    "flsd": fnn.FLSDLoss(),
    "adafocal": adafocal(),
}


class Dense:
    """A surface whose products are those of a matrix."""

    def __init__(self, matrix):
        self.matrix, self.size = matrix, len(matrix)
        self.parameters = type("One", (), {"tensors": [torch.zeros(1, dtype=torch.double)]})

    def product(self, matrix):
        return lambda vectors: self.matrix @ vectors


def falling(values, seed=0):
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(len(values), len(values), generator=generator, dtype=torch.double)
    basis = torch.linalg.qr(square)[0]
    return Dense(basis @ torch.diag(torch.as_tensor(values, dtype=torch.double)) @ basis.T)


def ggn_of(problem, loss):
    """The trace of the GGN from the whole Jacobian and the loss's Hessians by torch.func."""
    named = dict(problem.net.named_parameters())

    def logits(values):
        return torch.func.functional_call(problem.net, values, (problem.x,))

    pieces = torch.func.jacrev(logits)(named).values()
    jacobian = torch.cat([piece.flatten(2) for piece in pieces], 2)  # (n, C, P)
    inner = torch.func.hessian(lambda z: loss(z, problem.y))(problem.net(problem.x).detach())
    each = range(len(problem.x))
    return float(torch.einsum("ncp,ncd,ndp->", jacobian, inner[each, :, each], jacobian).detach())


def covered(found, truth):
    return np.mean([one.low <= truth <= one.high for one in found])


ESTIMATES = {
    "hutchinson": lambda surface, seed: hutchinson_trace(surface, probes=10, seed=seed),
    "hutchinson 30": lambda surface, seed: hutchinson_trace(surface, probes=30, seed=seed),
    "hutch++": lambda surface, seed: hutch_pp_trace(surface, products=30, seed=seed),
    "xtrace": lambda surface, seed: xtrace(surface, products=30, seed=seed),
    "xtrace 12": lambda surface, seed: xtrace(surface, products=12, seed=seed),
}


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("name", ESTIMATES)
def test_intervals_of_probes_cover(name, activation):
    problem = Problem(activation)
    hessian = problem.hessian(fnn.FocalLoss(2.0))
    truth = float(hessian.trace())
    found = [ESTIMATES[name](Dense(hessian), seed) for seed in range(300)]
    assert covered(found, truth) >= 0.925  # of 1,000 runs 0.93 (10 probes) to 0.96 (XTrace)
    values = np.array([one.value for one in found])
    assert abs(values.mean() - truth) < 3.5 * values.std() / 300**0.5
    stated = np.mean([one.stderr**2 for one in found]) ** 0.5
    assert stated == pytest.approx(values.std(), rel=0.2)


def test_they_beat_plain_probes_at_as_many_products():
    hessian = Problem(nn.Tanh, steps=200).hessian(nn.CrossEntropyLoss())
    error = {
        name: np.std([ESTIMATES[name](Dense(hessian), seed).value for seed in range(200)])
        for name in ("hutchinson 30", "hutch++", "xtrace")
    }
    assert error["hutch++"] < 0.8 * error["hutchinson 30"]
    assert error["xtrace"] < 0.9 * error["hutch++"]


@pytest.mark.parametrize("trace", [hutch_pp_trace, xtrace])
@pytest.mark.parametrize("rank", [0, 1, 5])
def test_a_matrix_of_low_rank_is_found_exactly(trace, rank):
    values = [3.0, -2.0, 5.0, 0.5, 1.0][:rank]
    found = trace(falling(values + [0.0] * (40 - rank)), products=24)
    assert found.value == pytest.approx(sum(values), abs=1e-9)
    assert found.stderr < 1e-7
    assert found.low <= found.value <= found.high


def test_fewer_parameters_than_vectors():
    small = falling([3.0, 2.0, 1.0])
    assert hutch_pp_trace(small, products=30).value == pytest.approx(6, rel=1e-10)
    assert np.mean([xtrace(small, products=4, seed=seed).value for seed in range(400)]) == pytest.approx(
        6, abs=0.3
    )
    with pytest.raises(ValueError, match="Expected fewer vectors than the 3 parameters, got 3"):
        xtrace(small, products=6)


def test_parameters_of_every_size_by_every_estimate():
    for values in ([1.0, 0.0], [1e-9] * 30, [1e9] + [1e-9] * 29, [-1.0] * 30):
        for trace in (hutchinson_trace, hutch_pp_trace, xtrace):
            options = {"products": 6} if trace is hutch_pp_trace else {}
            if trace is xtrace and len(values) == 2:
                continue
            found = trace(falling(values), **options)
            assert np.isfinite([found.value, found.stderr, found.low, found.high]).all()


@pytest.mark.parametrize("name", LOSSES)
def test_by_classes_it_is_exact(name):
    problem = Problem(nn.Tanh)
    for scale in (1.0, 3.0):  # surer, so that focal rows are not convex
        with torch.no_grad():
            problem.net[2].weight.mul_(scale)
        surface = problem.surface(LOSSES[name])
        truth = ggn_of(problem, LOSSES[name])
        found = structured_trace(surface, by="classes")
        assert found.value == pytest.approx(truth, rel=1e-9)
        assert (found.stderr, found.low, found.n) == (0, found.value, 1)
        assert found.data_stderr > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("by", "sketches", "rows", "least"),
    [("rows", 2, 400, 0.93), ("rows", 2, 60, 0.93), ("batches", 4, 60, 0.92)],
)
def test_intervals_of_sketches_cover(by, sketches, rows, least):
    # of 1,000 runs batches covered in 0.93 to 0.94
    problem = Problem(nn.Tanh, n=rows)
    problem.batches = [(problem.x, problem.y)]
    surface = problem.surface(fnn.FocalLoss(2.0))
    truth = ggn_of(problem, surface.loss)
    found = [structured_trace(surface, sketches=sketches, by=by, seed=seed) for seed in range(300)]
    assert covered(found, truth) >= least
    values = np.array([one.value for one in found])
    assert abs(values.mean() - truth) < 3.5 * values.std() / 300**0.5


@pytest.mark.parametrize("by", ["rows", "batches"])
@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(WEIGHT[:3], ignore_index=1), fnn.FocalLoss(3.0)])
def test_images_of_labels_without_bias(by, loss):
    net = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Tanh(), nn.Conv2d(3, 3, 1)).double()
    with torch.no_grad():
        net[2].weight.mul_(5)
    x, y = torch.randn(6, 2, 4, 3, dtype=torch.double), torch.randint(3, (6, 3, 2))
    surface = LossSurface(net, loss, [(x[:4], y[:4]), (x[4:], y[4:])])
    truth = float(surface.ggn_product(torch.eye(surface.size, dtype=torch.double)).trace())
    values = np.array([structured_trace(surface, by=by, seed=s).value for s in range(30)])
    assert abs(values.mean() - truth) < 3.5 * values.std() / 30**0.5
    assert values.std() < 0.6 * truth
    with pytest.raises(ValueError, match=r'Expected logits \(n, C\) for by="classes"'):
        structured_trace(surface, by="classes")


@pytest.mark.parametrize("name", ["cross-entropy", "weighted"])
def test_the_datas_error_is_the_spread_of_data_sets(name):
    problem, loss = Problem(nn.Tanh), LOSSES[name]
    found = []
    for seed in range(150):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(80, 5, generator=generator, dtype=torch.double)
        y = (x[:, :4] + 0.7 * torch.randn(80, 4, generator=generator, dtype=torch.double)).argmax(1)
        found.append(structured_trace(LossSurface(problem.net, loss, [(x, y)]), by="classes"))
    values = np.array([one.value for one in found])
    stated = np.mean([one.data_stderr**2 for one in found]) ** 0.5
    assert stated == pytest.approx(values.std(), rel=0.2)  # which 150 sets tell to 6 %
    sketched = structured_trace(LossSurface(problem.net, loss, [(x, y)]), sketches=20)
    assert sketched.data_stderr == pytest.approx(found[-1].data_stderr, rel=0.15)


@pytest.mark.parametrize("name", LOSSES)
def test_forms_of_rows_are_those_of_their_own_matrices(name):
    problem, loss = Problem(nn.Tanh, n=12), LOSSES[name]
    surface = problem.surface(loss)
    vectors = torch.randn(surface.size, 2, dtype=torch.double)
    ((moments, weight),) = [(s.totals[0], s.weights[0]) for s in [surface.sums([RowForms(loss, vectors)])]]
    forms, weights = [], []
    for x, y in zip(problem.x.split(1), problem.y.split(1), strict=True):
        one = LossSurface(problem.net, loss, [(x, y)])
        ignored = int(y) == loss.ignore_index
        weights.append(0.0 if ignored else float(1.0 if loss.weight is None else loss.weight[int(y)]))
        if ignored:
            forms.append(torch.zeros(4, dtype=torch.double))
            continue
        hessian = (vectors * one.hessian_product(vectors)).sum(0)
        ggn = (vectors * one.ggn_product(vectors)).sum(0)
        forms.append(weights[-1] * torch.cat([ggn, hessian - ggn]))
    u = torch.cat(
        [torch.ones(12, 1), torch.tensor(weights, dtype=torch.double)[:, None], torch.stack(forms)], 1
    )
    assert weight == pytest.approx(sum(weights))
    assert u[:, 4:].abs().max() > 1e-3
    torch.testing.assert_close(moments, u.T @ u, rtol=1e-9, atol=1e-11)
