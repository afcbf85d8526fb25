"""Value, gradient and products of a loss surface against dense derivatives of the same function."""

import copy
import math

import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402

from focalcal import nn as fnn  # noqa: E402
from focalcal.curvature import LossSurface  # noqa: E402


class Tied(nn.Module):
    """Two layers that share a matrix."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.head = nn.Linear(3, 9), nn.Linear(3, 3)

    def forward(self, x):
        q, k, v = self.qkv(x.unsqueeze(1) * torch.tensor([1.0, -0.5, 2.0]).reshape(1, 3, 1)).chunk(3, 2)
        heads = (part.unsqueeze(1) for part in (q, k, v))  # with them torch takes its fused attention
        return self.head(F.scaled_dot_product_attention(*heads).mean((1, 2)))


def convolutions():
    layers = nn.Conv1d(1, 2, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4, 3)
    net = nn.Sequential(nn.Unflatten(1, (1, 3)), *layers)
    net[2].running_mean.normal_()
    net[2].running_var.uniform_(0.5, 2)
    return net


MODELS = {
    "tanh": lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)),
    "convolutions": convolutions,
    "tied": Tied,
    "attention": Attention,
    "linear": lambda: nn.Linear(3, 3),
}

WEIGHT = torch.tensor([0.2, 1.0, 3.0], dtype=torch.double)

LOSSES = {
    "cross-entropy": nn.CrossEntropyLoss(),
    "weighted": nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=1),
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.2, reduction="sum"),
    "focal": fnn.FocalLoss(2.0),
    "focal 0.5": fnn.FocalLoss(0.5, weight=WEIGHT),
    "a function": F.cross_entropy,
}


def problem(model="tanh", n=11, sizes=(4, 4, 3)):
    torch.manual_seed(1)
    net = MODELS[model]().double()
    x, y = torch.randn(n, 3, dtype=torch.double), torch.arange(n) % 3
    return net, list(zip(x.split(sizes), y.split(sizes), strict=True)), (x, y)


@pytest.fixture(autouse=True)
def double():
    """Everything in float64, also what modules make themselves."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@sdpa_kernel(SDPBackend.MATH)
def dense(net, loss, x, y, names):
    """Return value, gradient, Hessian and GGN of the whole batch's loss by torch.func."""
    net = copy.deepcopy(net).eval()
    every = dict(net.named_parameters())
    shapes = [every[name].shape for name in names]
    mean = copy.copy(loss)
    if isinstance(mean, nn.Module):
        mean.reduction = "mean"

    def logits(flat):
        parts = flat.split([s.numel() for s in shapes])
        values = {name: part.reshape(shape) for name, part, shape in zip(names, parts, shapes)}
        return torch.func.functional_call(net, values, (x,))

    at = torch.cat([every[name].detach().flatten() for name in names])
    z = logits(at)
    inner = torch.func.hessian(lambda z: mean(z, y))(z.detach()).reshape(z.numel(), z.numel())
    jacobian = torch.func.jacrev(logits)(at).reshape(z.numel(), -1)

    def value(flat):
        return mean(logits(flat), y)

    return value(at), torch.func.grad(value)(at), torch.func.hessian(value)(at), jacobian.T @ inner @ jacobian


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("loss", LOSSES)
def test_batches_of_any_size_equal_dense_derivatives(model, loss):
    net, batches, (x, y) = problem(model)
    surface = LossSurface(net, LOSSES[loss], batches)
    value, gradient, hessian, ggn = dense(net, LOSSES[loss], x, y, surface.parameters.names)
    assert surface.value() == pytest.approx(float(value), rel=1e-12)
    tight = {"rtol": 1e-9, "atol": 1e-11}
    torch.testing.assert_close(surface.gradient(), gradient, **tight)
    vectors = torch.randn(surface.size, 2)
    torch.testing.assert_close(surface.hessian_product(vectors), hessian @ vectors, **tight)
    torch.testing.assert_close(surface.ggn_product(vectors), ggn @ vectors, **tight)
    torch.testing.assert_close(surface.hessian_product(vectors[:, 0]), hessian @ vectors[:, 0], **tight)
    if model in ("convolutions", "linear"):  # piecewise linear: both have one diagonal, and so one trace
        torch.testing.assert_close(hessian.trace(), ggn.trace(), **tight)
    # a mean of the batches' means would weigh the rows of the small last one more
    assert abs(sum(LOSSES[loss](net.eval()(x), y) for x, y in batches) / 3 - value) > 1e-6


def test_parameters_by_name():
    net, batches, (x, y) = problem("tanh")
    net[0].bias.requires_grad_(False)
    assert LossSurface(net, F.cross_entropy, batches).parameters.names == ("0.weight", "2.weight", "2.bias")
    last = LossSurface(net, F.cross_entropy, batches, parameters="2")
    assert last.parameters.names == ("2.weight", "2.bias")
    both = LossSurface(net, F.cross_entropy, batches, parameters=["2.bias", "0"])
    assert both.parameters.names == ("0.weight", "0.bias", "2.bias")  # frozen ones too, if they are named
    _, gradient, hessian, _ = dense(net, F.cross_entropy, x, y, both.parameters.names)
    torch.testing.assert_close(both.gradient(), gradient)
    vector = torch.randn(both.size)
    torch.testing.assert_close(both.hessian_product(vector), hessian @ vector)
    assert not net[0].bias.requires_grad
    tied, batches, _ = problem("tied")
    surface = LossSurface(tied, F.cross_entropy, batches, parameters="second")
    assert surface.parameters.names == ("second.weight", "second.bias")
    assert surface.gradient().norm() > 0
    assert LossSurface(tied, F.cross_entropy, batches).size == 3 * 3 + 3 + 3


def test_the_model_is_given_back_as_it_was():
    net, batches, _ = problem("convolutions")
    net[4].eval()
    net.train()
    net[2].eval()
    net[1].weight.grad = torch.ones_like(net[1].weight)
    before = copy.deepcopy(net.state_dict())
    modes = [module.training for module in net.modules()]
    for mode in ("eval", "train"):
        surface = LossSurface(net, F.cross_entropy, batches, mode=mode)
        surface.hessian_product(torch.ones(surface.size))
        surface.ggn_product(torch.ones(surface.size))
    stops = LossSurface(net, F.cross_entropy, [batches[0], (batches[1][0], None)], mode="train")
    with pytest.raises(TypeError):
        stops.gradient()
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), before.values()))
    assert (net[1].weight.grad == 1).all()


def test_train_mode_is_another_surface_and_always_the_same_one():
    net, batches, _ = problem("convolutions")
    train = LossSurface(net, F.cross_entropy, batches, mode="train", seed=3)
    vector = torch.randn(train.size)
    state = torch.get_rng_state()
    first = train.hessian_product(vector)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(train.hessian_product(vector), first, rtol=0, atol=0)
    step = 1e-5
    ends = []
    for sign in (1, -1):
        moved = copy.deepcopy(net)
        torch.nn.utils.vector_to_parameters(
            torch.nn.utils.parameters_to_vector(moved.parameters()) + sign * step * vector, moved.parameters()
        )
        ends.append(LossSurface(moved, F.cross_entropy, batches, mode="train", seed=3).gradient())
    torch.testing.assert_close((ends[0] - ends[1]) / (2 * step), first, rtol=1e-4, atol=1e-6)
    other = LossSurface(net, F.cross_entropy, batches, mode="train", seed=4).hessian_product(vector)
    assert (other - first).norm() > 1e-3 * first.norm()
    assert (LossSurface(net, F.cross_entropy, batches).hessian_product(vector) - first).norm() > 1e-3


@pytest.mark.parametrize("gamma", [0.5, 1.5])
def test_saturated_rows_have_finite_products(gamma):
    net = nn.Linear(3, 3)
    x = torch.tensor([[1e4, 0.0, 0.0], [0.0, 0.0, 1e4], [1.0, 2.0, 0.5]])
    surface = LossSurface(net, fnn.FocalLoss(gamma), [(x, torch.tensor([0, 1, 2]))])
    vector = torch.randn(surface.size)
    for product in (surface.hessian_product, surface.ggn_product):
        assert product(vector).isfinite().all()


def test_dicts_of_inputs_named_outputs_and_float32():
    inner, batches, _ = problem("tanh")

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner.float()

        def forward(self, pixels):
            return {"logits": self.inner(pixels)}

    named = [{"pixels": x.float(), "labels": y} for x, y in batches]
    surface = LossSurface(Named(), nn.CrossEntropyLoss(), named)
    vector = torch.randn(surface.size)
    expected = LossSurface(copy.deepcopy(inner).double(), nn.CrossEntropyLoss(), batches)
    found = surface.hessian_product(vector)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected.hessian_product(vector), rtol=1e-4, atol=1e-5)
    found = surface.ggn_product(vector)
    torch.testing.assert_close(found, expected.ggn_product(vector), rtol=1e-4, atol=1e-5)


def test_a_batch_whose_labels_are_all_ignored_counts_nothing():
    net, batches, _ = problem("tanh")
    nothing = (batches[0][0], torch.full_like(batches[0][1], -100))
    with_it, without = (LossSurface(net, nn.CrossEntropyLoss(), b) for b in ([*batches, nothing], batches))
    assert with_it.value() == pytest.approx(without.value(), rel=1e-14)
    torch.testing.assert_close(with_it.gradient(), without.gradient())


def test_wrong_input_is_named():
    net, batches, _ = problem("tanh")
    with pytest.raises(ValueError, match="got 'layer9', which is none"):
        LossSurface(net, F.cross_entropy, batches, parameters="layer9")
    with pytest.raises(ValueError, match="Expected mode to be one of 'eval', 'train'"):
        LossSurface(net, F.cross_entropy, batches, mode="test")
    with pytest.raises(ValueError, match="Expected rows to measure, got none"):
        LossSurface(net, F.cross_entropy, []).value()
    with pytest.raises(ValueError, match=r"Expected vectors of shape \(31,\) or \(31, m\)"):
        LossSurface(net, F.cross_entropy, batches).hessian_product(torch.ones(4))
    with pytest.raises(ValueError, match=r"Expected a loss that returns one number, got shape \(4,\)"):
        LossSurface(net, lambda z, y: F.cross_entropy(z, y, reduction="none"), batches).gradient()
    with pytest.raises(TypeError, match=r"Expected batches \(inputs, labels\)"):
        LossSurface(net, F.cross_entropy, [torch.ones(3)]).value()
    with pytest.raises(TypeError, match="that can be read again for each pass, got generator"):
        LossSurface(net, F.cross_entropy, (batch for batch in batches))
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="every parameter of the model is frozen"):
        LossSurface(net, F.cross_entropy, batches)


def test_the_mean_square_by_hand():
    net = nn.Linear(1, 1, bias=False)
    batches = [(torch.tensor([[1.0]]), torch.zeros(1, 1)), (torch.tensor([[2.0], [3.0]]), torch.zeros(2, 1))]
    surface = LossSurface(net, nn.MSELoss(), batches)
    theta = net.weight.item()
    assert surface.value() == pytest.approx(14 / 3 * theta**2)
    assert surface.gradient().item() == pytest.approx(28 / 3 * theta)
    assert surface.ggn_product(torch.ones(1)).item() == pytest.approx(28 / 3)
    assert math.isclose(surface.hessian_product(torch.ones(1)).item(), 28 / 3)
