"""`measure` against dense Hessians: every number of its table, both errors, and what ends it."""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from curvature.dense import Problem  # noqa: E402
from focalcal import nn as fnn  # noqa: E402
from focalcal.curvature import (  # noqa: E402
    LossSurface,
    measure,
    spectral_density,
    top_eigenvalues,
)
from focalcal.curvature.rows import pulls as row_pulls  # noqa: E402

EXACT = {"relative_error": 0.03, "tolerance": 1e-9, "budget": 5000.0}


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_every_number_against_the_dense_hessian(activation):
    problem = Problem(activation)
    losses = {"training": fnn.FocalLoss(2.0), "common": nn.CrossEntropyLoss()}
    found = measure(problem.net, losses["training"], problem.batches, **EXACT)
    for name, loss in losses.items():
        one, hessian = getattr(found, name), problem.hessian(loss)
        value, at = problem.function(loss)
        slope = torch.func.grad(value)(at)
        truth = torch.linalg.eigvalsh(hessian).flip(0)
        assert one.name == type(loss).__name__
        assert one.loss.value == pytest.approx(float(value(at)), rel=1e-12)
        assert one.loss.n == len(problem.y) == found.rows
        assert one.gradient_norm == pytest.approx(float(slope.norm()), rel=1e-9)
        rise = value(at + 0.05 * slope / slope.norm()) - value(at)
        assert one.sharpness == pytest.approx(float(rise), rel=1e-9)
        np.testing.assert_allclose(one.eigenvalues, truth[:5], rtol=1e-6)
        assert (one.residuals < 1e-3 * one.eigenvalues[0]).all()
        torch.testing.assert_close(
            hessian @ one.top.vectors, one.top.vectors * torch.tensor(one.eigenvalues), rtol=0, atol=2e-4
        )
        assert abs(one.trace.value - truth.sum()) < 4 * one.trace.stderr
        assert one.trace.stderr <= 0.03 * one.trace.value
        assert one.frobenius.value == pytest.approx(float(hessian.norm()), rel=0.02)
        assert one.density.moment(1) * found.size == pytest.approx(float(truth.sum()), rel=0.1)
        assert one.density.wasserstein(truth.numpy()) < 0.1 * float(truth.abs().mean())
        assert float(truth[-1]) <= one.lowest + 1e-9
    piecewise = activation is nn.ReLU
    assert (found.curved_by is None) is piecewise
    assert (found.training.trace == found.training.ggn_trace) is piecewise
    assert found.stopped == "traces within 0.03, eigenvalues within 1e-09"
    assert json.loads(json.dumps(found.to_dict()))["training"]["top"]["converged"]


def test_the_ggn_of_a_curved_network_is_another_matrix():
    problem = Problem(nn.Tanh)
    surface, loss = problem.surface(nn.CrossEntropyLoss()), nn.CrossEntropyLoss()
    ggn = float(surface.ggn_product(torch.eye(surface.size, dtype=torch.double)).trace())
    hessian = float(problem.hessian(loss).trace())
    found = measure(problem.net, loss, problem.batches, **EXACT).training
    assert abs(hessian - ggn) > 0.02 * ggn
    assert abs(found.ggn_trace.value - ggn) < 4 * found.ggn_trace.stderr
    assert abs(found.trace.value - hessian) < 4 * found.trace.stderr


def test_the_spread_of_rows_is_the_datas_error():
    problem = Problem(n=60)
    loss = fnn.FocalLoss(2.0)
    rows = problem.row_hessians(loss)
    found = measure(problem.net, loss, problem.batches, eigenvalues=1, **EXACT).training
    traces = rows.diagonal(dim1=1, dim2=2).sum(1)
    assert found.trace.data_stderr == pytest.approx(float(traces.std()) / 60**0.5, rel=0.15)
    assert found.trace.rows == 60
    vector = found.top.vectors[:, 0]
    forms = torch.einsum("p,npq,q->n", vector, rows, vector)
    assert found.top_data_stderr == pytest.approx(float(forms.std()) / 60**0.5, rel=1e-6)
    value, at = problem.function(loss)
    each = torch.stack([value(at, [i]) for i in range(60)])
    assert found.loss.stderr == pytest.approx(float(each.std()) / 60**0.5, rel=1e-9)


def test_a_sample_has_too_large_a_largest_eigenvalue():
    problem = Problem(n=400, seed=2)
    loss = nn.CrossEntropyLoss()
    whole = top_eigenvalues(problem.surface(loss), 1).values[0]
    generator = np.random.default_rng(0)
    of_samples = []
    for _ in range(20):
        rows = generator.choice(400, 20)
        surface = LossSurface(problem.net, loss, [(problem.x[rows], problem.y[rows])])
        of_samples.append(top_eigenvalues(surface, 1).values[0])
    assert np.mean(of_samples) > whole + 2 * np.std(of_samples) / 20**0.5


def test_the_same_seed_gives_the_same_result_wherever_it_runs():
    problem = Problem(nn.Tanh)
    given = problem.net, fnn.FocalLoss(2.0), problem.batches
    own = {"relative_error": 0.2, "budget": 60.0, "eigenvalues": 2}
    here = measure(*given, seed=3, **own).to_dict()
    assert measure(*given, seed=3, **own).to_dict() == here
    other = measure(*given, seed=4, **own).to_dict()
    assert other["training"]["trace"]["value"] != here["training"]["trace"]["value"]
    assert measure(*given, seed=3, memory=0, **own).to_dict() == here
    with ThreadPoolExecutor(2) as threads:
        there = measure(*given, seed=3, executor=threads, **own)
    assert there.training.trace.value == pytest.approx(here["training"]["trace"]["value"], rel=1e-12)
    assert there.training.eigenvalues.tolist() == pytest.approx(here["training"]["top"]["values"], rel=1e-12)


@pytest.mark.slow
def test_batches_in_other_processes():
    problem = Problem()
    loss = fnn.FocalLoss(2.0)
    here = measure(problem.net, loss, problem.batches, eigenvalues=1, budget=20).to_dict()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])  # as in `ranks`: imported once for all tests
    with ProcessPoolExecutor(1, mp_context=context) as processes:
        there = measure(
            problem.net, loss, problem.batches, eigenvalues=1, budget=20, executor=processes
        ).to_dict()
    assert there["training"]["trace"]["value"] == pytest.approx(here["training"]["trace"]["value"], rel=1e-9)
    assert there["common"]["top"]["values"] == pytest.approx(here["common"]["top"]["values"], rel=1e-9)


def test_a_budget_ends_it_and_it_says_so():
    problem = Problem(nn.Tanh)
    told = []
    found = measure(
        problem.net,
        nn.CrossEntropyLoss(),
        problem.batches,
        relative_error=1e-3,
        tolerance=1e-12,
        budget=60,
        progress=lambda what, done, whole: told.append((what, done, whole)),
    )
    assert found.common is None
    assert found.cost < 100
    assert found.stopped == "budget of 60 gradients before the traces and eigenvalues were exact enough"
    assert any("not all eigenvalues have converged" in note for note in found.notes)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[-1][0] == "gradients"
    assert told[-1][2] == 60


def test_traces_leave_half_of_the_budget_to_the_eigenvalues():
    problem = Problem(nn.Tanh)
    own = {"relative_error": 1e-3, "eigenvalues": 3}
    found = measure(problem.net, nn.CrossEntropyLoss(), problem.batches, budget=300, **own)
    truth = torch.linalg.eigvalsh(problem.hessian(nn.CrossEntropyLoss())).flip(0)[:3]
    np.testing.assert_allclose(found.training.eigenvalues, truth, rtol=1e-3)
    assert "before the traces were exact enough" in found.stopped
    least = measure(problem.net, nn.CrossEntropyLoss(), problem.batches, budget=1, **own)
    assert len(least.training.eigenvalues) == 3


def test_rows_are_worked_on_together(monkeypatch):
    def alone(*_):
        raise AssertionError("one row at a time")

    monkeypatch.setattr(row_pulls, "_alone", alone)
    problem = Problem()
    measure(problem.net, nn.CrossEntropyLoss(), problem.batches, budget=20)


class Named(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, pixels):
        return {"logits": self.inner(pixels)}


def test_dicts_names_of_parameters_and_functions():
    problem = Problem()
    named = [{"pixels": x, "labels": y} for x, y in problem.batches]
    plain = measure(problem.net, F.cross_entropy, problem.batches, parameters="2")
    found = measure(Named(problem.net), F.cross_entropy, named, parameters="inner.2")
    assert found.to_dict() == plain.to_dict()
    assert found.size == 6 * 4 + 4


def test_losses_whose_hessian_is_not_known():
    problem = Problem(nn.Tanh)
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.1)

    def function(logits, target):
        return smoothed(logits, target)

    hessian = problem.hessian(smoothed)
    surface = problem.surface(smoothed)
    ggn = float(surface.ggn_product(torch.eye(surface.size, dtype=torch.double)).trace())
    for loss in (smoothed, function):
        one = measure(problem.net, loss, problem.batches, relative_error=0.06, budget=2000.0).training
        assert abs(one.trace.value - float(hessian.trace())) < 4 * one.trace.stderr
        assert abs(one.ggn_trace.value - ggn) < 4 * one.ggn_trace.stderr
        assert one.trace.data_stderr > 0
        assert one.loss.value == pytest.approx(problem.surface(smoothed).value(), rel=1e-12)
        assert one.loss.stderr > 0
    assert measure(problem.net, function, problem.batches, budget=20).training.name == "function"


class Opaque(torch.autograd.Function):
    """Tanh that torch.func cannot transform, with two derivatives in reverse mode."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    def backward(ctx, upstream):
        (x,) = ctx.saved_tensors
        return upstream * (1 - torch.tanh(x) ** 2)


class Closed(nn.Module):
    def forward(self, x):
        return Opaque.apply(x)


def test_operations_that_cannot_be_transformed():
    open_one, closed = Problem(nn.Tanh), Problem(nn.Tanh)
    closed.net[1] = Closed()
    options = {"budget": 300.0, "eigenvalues": 2}
    expected = measure(open_one.net, nn.CrossEntropyLoss(), open_one.batches, **options).training
    found = measure(closed.net, nn.CrossEntropyLoss(), closed.batches, **options)
    one = found.training
    assert found.curved_by is not None
    assert one.ggn_trace.value == pytest.approx(expected.ggn_trace.value, rel=1e-9)  # a row at a time
    np.testing.assert_allclose(one.eigenvalues, expected.eigenvalues, rtol=1e-6)
    assert np.isnan(one.top_data_stderr)
    assert any("no forward mode" in note for note in found.notes)
    assert (
        abs(one.trace.value - float(open_one.hessian(nn.CrossEntropyLoss()).trace())) < 4 * one.trace.stderr
    )


def test_train_mode_is_named():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double()
    batches = [(torch.randn(20, 4, dtype=torch.double), torch.arange(20) % 3) for _ in range(2)]
    found = measure(net, nn.CrossEntropyLoss(), batches, mode="train", budget=100)
    assert found.mode == "train"
    assert found.curved_by is not None
    assert any("train mode" in note for note in found.notes)
    assert "train mode" in str(found)


def test_a_table_and_a_plot():
    pytest.importorskip("matplotlib").use("Agg")
    problem = Problem()
    found = measure(problem.net, fnn.FocalLoss(2.0), problem.batches, budget=60)
    table = str(found)
    for part in ("FocalLoss", "CrossEntropyLoss", "trace of the GGN", "60 rows", "± ", "stopped: "):
        assert part in table
    ax = found.plot()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["FocalLoss", "CrossEntropyLoss"]
    assert found.plot(ax) is ax


def test_the_common_loss_is_one_that_fits():
    problem = Problem()
    y = problem.y.clone()
    y[:5] = 255
    batches = [(problem.x, y)]
    found = measure(problem.net, fnn.FocalLoss(2.0, ignore_index=255), batches, budget=60)
    kept = LossSurface(problem.net, nn.CrossEntropyLoss(), [(problem.x[5:], problem.y[5:])])
    assert found.common.loss.value == pytest.approx(kept.value(), rel=1e-12)
    net = nn.Linear(5, 1).double()
    one = measure(net, nn.MSELoss(), [(problem.x, problem.x[:, :1])])
    assert one.common is None
    # the mean of (θ x + b - t)² has the Hessian 2 E (x, 1)(x, 1)ᵀ
    trace = 2 * float(problem.x.square().sum(1).mean() + 1)
    assert abs(one.training.trace.value - trace) < 4 * one.training.trace.stderr
    assert one.training.trace == one.training.ggn_trace  # without class indices too


def test_a_single_row_has_no_error_of_the_data():
    problem = Problem()
    row = [(problem.x[:1], problem.y[:1])]
    whole = measure(problem.net, nn.CrossEntropyLoss(), row, relative_error=0.01)
    found = whole.training
    assert np.isnan(found.loss.stderr)
    assert np.isnan(found.trace.data_stderr)
    surface = LossSurface(problem.net, nn.CrossEntropyLoss(), row)
    truth = float(surface.hessian_product(torch.eye(surface.size, dtype=torch.double)).trace())
    assert abs(found.trace.value - truth) < 5 * found.trace.stderr
    assert "nan" not in str(whole)


def test_data_that_cannot_be_right():
    problem = Problem()
    with pytest.raises(ValueError, match="Expected a finite loss, got nan"):
        measure(problem.net, nn.CrossEntropyLoss(), [(problem.x * torch.nan, problem.y)])
    with pytest.raises(ValueError, match="Expected labels 0 to 3, as the model returns 4 logits, got 1 to 4"):
        measure(problem.net, nn.CrossEntropyLoss(), [(problem.x, problem.y + 1)])


def test_half_precision_keeps_its_basis_in_float32():
    problem = Problem()
    batches = [(problem.x.bfloat16(), problem.y)]
    exact = measure(problem.net, nn.CrossEntropyLoss(), problem.batches, eigenvalues=1).training
    found = measure(problem.net.bfloat16(), nn.CrossEntropyLoss(), batches, eigenvalues=1, budget=60).training
    assert found.top.vectors.dtype == torch.float32
    assert found.eigenvalues[0] == pytest.approx(exact.eigenvalues[0], rel=0.05)


def test_settings_out_of_range():
    problem = Problem()
    for wrong in ({"relative_error": 0}, {"tolerance": -1}, {"eigenvalues": 0}, {"level": 2}):
        with pytest.raises(ValueError, match=r"^Expected "):
            measure(problem.net, nn.CrossEntropyLoss(), problem.batches, **wrong)
    with pytest.raises(ValueError, match="Expected rows to measure, got none"):
        measure(problem.net, nn.CrossEntropyLoss(), [])
    with pytest.raises(ValueError, match="Expected at least 5 products a probe"):
        spectral_density(problem.surface(nn.CrossEntropyLoss()), products=5)
    with pytest.raises(ValueError, match="Expected count at most products"):
        top_eigenvalues(problem.surface(nn.CrossEntropyLoss()), 1000)
