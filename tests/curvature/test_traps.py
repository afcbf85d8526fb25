"""Ways in which measured curvature is known to go wrong without a word, each met once."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402

from curvature.dense import Problem  # noqa: E402
from focalcal import nn as fnn  # noqa: E402
from focalcal.curvature import (  # noqa: E402
    LossSurface,
    hutch_pp_trace,
    measure,
    structured_trace,
    top_eigenvalues,
    xtrace,
)

LOSS = nn.CrossEntropyLoss()


class Attention(nn.Module):
    """One head over three tokens."""

    def __init__(self):
        super().__init__()
        self.qkv, self.head = nn.Linear(2, 6), nn.Linear(2, 3)

    def forward(self, x):
        q, k, v = (part.unsqueeze(1) for part in self.qkv(x).chunk(3, 2))  # with heads: the fused one
        return self.head(F.scaled_dot_product_attention(q, k, v).mean((1, 2)))


def dense(net, loss, x, y):
    """The Hessian in all parameters by torch.func."""
    named = {name: t.detach() for name, t in net.named_parameters()}
    sizes = [t.numel() for t in named.values()]

    def value(flat):
        parts = zip(named, flat.split(sizes), strict=True)
        values = {name: part.reshape(named[name].shape) for name, part in parts}
        return loss(torch.func.functional_call(net, values, (x,)), y)

    return torch.func.hessian(value)(torch.cat([t.flatten() for t in named.values()]))


def test_a_last_batch_of_five_counts_as_five():
    problem = Problem(nn.Tanh, n=55)  # 25, 25 and 5
    truth = torch.linalg.eigvalsh(problem.hessian(LOSS)).flip(0).numpy()
    surface = problem.surface(LOSS)
    assert [len(y) for _, y in problem.batches] == [25, 25, 5]
    np.testing.assert_allclose(top_eigenvalues(surface, 2).values, truth[:2], rtol=1e-6)
    each = [LossSurface(problem.net, LOSS, [batch]) for batch in problem.batches]
    vector = torch.ones(surface.size, dtype=torch.double)
    mean_of_means = sum(one.hessian_product(vector) for one in each) / 3
    assert (mean_of_means - surface.hessian_product(vector)).norm() > 0.01 * mean_of_means.norm()
    traces = np.array([structured_trace(one, by="classes").value for one in each])
    whole = structured_trace(surface, by="classes").value
    assert whole == pytest.approx((25 * traces[0] + 25 * traces[1] + 5 * traces[2]) / 55, rel=1e-9)
    assert abs(whole - traces.mean()) > 0.01 * whole


@pytest.mark.parametrize("gamma", [0.5, 1.5])
def test_sure_rows_have_finite_curvature(gamma):
    net = nn.Linear(3, 3)
    x = torch.tensor([[1e4, 0.0, 0.0], [0.0, 0.0, 1e4], [1.0, 2.0, 0.5], [0.3, 0.1, -1.0]])
    batches, loss = [(x, torch.tensor([0, 1, 2, 0]))], fnn.FocalLoss(gamma)
    with torch.no_grad():
        net.weight.mul_(10)
    surface = LossSurface(net, loss, batches)
    for by in ("rows", "batches", "classes"):
        assert np.isfinite(structured_trace(surface, by=by).value)
    for trace in (hutch_pp_trace, xtrace):
        assert np.isfinite(trace(surface, products=6).value)
    found = measure(net, loss, batches, eigenvalues=2, budget=60.0)
    for one in (found.training, found.common):
        numbers = one.loss.value, one.gradient_norm, one.trace.value, one.frobenius.value, one.sharpness
        assert np.isfinite([*numbers, one.lowest, *one.eigenvalues]).all()


def test_attention_is_measured_by_the_form_that_has_derivatives():
    net, x, y = Attention().double(), torch.randn(9, 3, 2, dtype=torch.double), torch.arange(9) % 3
    batches = [(x[:5], y[:5]), (x[5:], y[5:])]
    with sdpa_kernel(SDPBackend.MATH):
        truth = torch.linalg.eigvalsh(dense(net, LOSS, x, y)).flip(0)
    np.testing.assert_allclose(
        top_eigenvalues(LossSurface(net, LOSS, batches), 3).values, truth[:3], rtol=1e-6
    )
    found = measure(net, LOSS, batches, budget=200.0, relative_error=0.5, eigenvalues=1).training
    assert found.eigenvalues[0] == pytest.approx(float(truth[0]), rel=1e-4)
    assert abs(found.trace.value - float(truth.sum())) < 4 * found.trace.stderr
    assert np.isfinite(found.top_data_stderr)  # by forward mode
    assert np.isfinite(found.ggn_trace.stderr)


def test_buffers_are_given_back_after_an_exception():
    net = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 4)).double()
    problem = Problem()

    def stops(logits, target):
        if len(logits) < 25:
            raise RuntimeError("the last batch")
        return F.cross_entropy(logits, target)

    net.train()
    net[2].eval()
    before, modes = copy.deepcopy(net.state_dict()), [module.training for module in net.modules()]
    net[0].bias.requires_grad_(False)
    for mode in ("eval", "train"):
        with pytest.raises(RuntimeError, match="the last batch"):
            measure(net, stops, problem.batches, mode=mode)
        with pytest.raises(RuntimeError, match="the last batch"):
            top_eigenvalues(LossSurface(net, stops, problem.batches, mode=mode, parameters="0"))
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), before.values(), strict=True))
    assert [module.training for module in net.modules()] == modes
    assert [t.requires_grad for t in net.parameters()] == [True, False, True, True, True, True]


def test_a_pass_in_train_mode_moves_no_running_statistics():
    net = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 4)).double()
    before = copy.deepcopy(net.state_dict())
    measure(net, LOSS, Problem().batches, mode="train", eigenvalues=1, budget=30)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), before.values(), strict=True))
