"""Which networks are piecewise linear in each parameter tensor: there the Hessian has the GGN's trace."""

import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from focalcal import nn as fnn  # noqa: E402
from focalcal.curvature import LossSurface  # noqa: E402
from focalcal.curvature.trace.piecewise_linear import curved_operation  # noqa: E402


class Net(nn.Module):
    """A function of layers and inputs."""

    def __init__(self, function, *layers):
        super().__init__()
        self.layers, self.function = nn.ModuleList(layers), function
        self.scale = nn.Parameter(torch.tensor([0.5, 1.0, 2.0]))

    def forward(self, x):
        return self.function(self, x, *self.layers)


def line(activation, width=4):
    return nn.Sequential(nn.Linear(4, width), activation, nn.Linear(4, 3))


def images(*layers):
    return nn.Sequential(nn.Unflatten(1, (1, 2, 2)), *layers)


def residual(net, x, a, b, c):
    h = F.relu(a(x))
    return c(F.relu(h + b(h)))


STRAIGHT = {
    "relu": lambda: line(nn.ReLU()),
    "relu in place": lambda: line(nn.ReLU(inplace=True)),
    "leaky relu": lambda: line(nn.LeakyReLU()),
    "prelu": lambda: line(nn.PReLU()),
    "hardtanh": lambda: line(nn.Hardtanh()),
    "a threshold": lambda: line(nn.Threshold(0.1, 0.0)),
    "max-pooling and dropout": lambda: images(
        nn.Conv2d(1, 4, 2, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(4, 3)
    ),
    "batch norm": lambda: images(
        nn.Conv2d(1, 2, 2, padding=1),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.AvgPool2d(3),
        nn.Flatten(),
        nn.Linear(2, 3),
    ),
    "adaptive pooling": lambda: images(
        nn.ConvTranspose2d(1, 2, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)
    ),
    "residual": lambda: Net(residual, nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)),
    "maxout": lambda: Net(
        lambda net, x, a, b: b(a(x).reshape(-1, 2, 2).amax(2)), nn.Linear(4, 4), nn.Linear(2, 3)
    ),
    "scaled": lambda: Net(lambda net, x, a: net.scale * a(x) / 3, nn.Linear(4, 3)),
    "embedding": lambda: Net(
        lambda net, x, e, o: o(e((x > 0).long()).mean(1)), nn.Embedding(2, 4), nn.Linear(4, 3)
    ),
    "a product of two layers": lambda: Net(
        lambda net, x, a, b: a(x) * b(x), nn.Linear(4, 3), nn.Linear(4, 3)
    ),
    "two branches": lambda: Net(
        lambda net, x, a, b: torch.where(a(x) > 0, a(x), torch.maximum(b(x), x[:, :3])),
        nn.Linear(4, 3),
        nn.Linear(4, 3),
    ),
}

CURVED = {
    "Tanh": lambda: line(nn.Tanh()),
    "Gelu": lambda: line(nn.GELU()),
    "Softplus": lambda: line(nn.Softplus()),
    "Silu": lambda: line(nn.SiLU()),
    "Elu": lambda: line(nn.ELU()),
    "Sigmoid": lambda: Net(lambda net, x, a, b: a(x) * torch.sigmoid(b(x)), nn.Linear(4, 3), nn.Linear(4, 3)),
    "Softmax": lambda: line(nn.Softmax(1)),
    "Pow": lambda: line(nn.LayerNorm(4)),  # of elementary operations: the square of the variance
    "NativeGroupNorm": lambda: line(nn.GroupNorm(2, 4)),
    "Div": lambda: Net(lambda net, x, a: a(x) / net.scale, nn.Linear(4, 3)),
    "Mul": lambda: Net(
        lambda net, x, a, b, c: b(a(x)) * c(a(x)), nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 3)
    ),
    "PreluKernel": lambda: Net(lambda net, x, a, p, b: p(b(p(a(x)))), *line(nn.PReLU())),
    "Addmm": lambda: Net(  # one matrix twice
        lambda net, x, a, b: b(F.relu(a(F.relu(a(x))))), nn.Linear(4, 4), nn.Linear(4, 3)
    ),
    "Bmm": lambda: Net(
        lambda net, x, a, o: o(a(*[x.unsqueeze(2)] * 3)[0].flatten(1)),
        nn.MultiheadAttention(1, 1, batch_first=True),
        nn.Linear(4, 3),
    ),
    "LinalgVectorNorm": lambda: Net(lambda net, x, a: F.normalize(a(x)), nn.Linear(4, 3)),
}

LOSSES = [nn.CrossEntropyLoss(), fnn.FocalLoss(2.0)]


def problem(make, mode="eval"):
    net = make().double()
    x, y = torch.randn(7, 4, dtype=torch.double), torch.arange(7) % 3
    surface = LossSurface(net, LOSSES[0], [(x, y)], mode=mode)
    return surface, net, x, y


def operation(surface):
    return surface.first(lambda batch: curved_operation(batch.logits, batch.surface.parameters.tensors))


def traces(net, loss, x, y):
    """The traces of the Hessian and of the GGN by torch.func."""
    net = net.eval()
    named = dict(net.named_parameters())
    shapes = [t.shape for t in named.values()]

    def logits(flat):
        parts = flat.split([shape.numel() for shape in shapes])
        values = {n: p.reshape(shape) for n, p, shape in zip(named, parts, shapes, strict=True)}
        return torch.func.functional_call(net, values, (x,))

    at = torch.cat([t.detach().flatten() for t in named.values()])
    z = logits(at)
    inner = torch.func.hessian(lambda z: loss(z, y))(z).reshape(z.numel(), z.numel())
    jacobian = torch.func.jacrev(logits)(at).reshape(z.numel(), -1)
    return torch.func.hessian(lambda flat: loss(logits(flat), y))(at).trace(), (
        inner * (jacobian @ jacobian.T)
    ).sum()


@pytest.mark.parametrize("name", STRAIGHT)
def test_straight_networks_have_one_trace(name):
    surface, net, x, y = problem(STRAIGHT[name])
    assert operation(surface) is None
    for loss in LOSSES:
        hessian, ggn = traces(net, loss, x, y)
        assert float(hessian) == pytest.approx(float(ggn), rel=1e-9)


@pytest.mark.parametrize("name", CURVED)
def test_curved_networks_are_named_by_what_bends_them(name):
    surface, net, x, y = problem(CURVED[name])
    assert operation(surface).startswith(f"{name}Backward")
    if name != "Bmm":  # of which torch.func has no derivatives here
        hessian, ggn = traces(net, LOSSES[0], x, y)
        assert abs(float(hessian - ggn)) > 1e-6 * float(ggn)


def test_the_parameters_that_are_asked_for_decide():
    _, net, x, y = problem(CURVED["Tanh"])
    last = LossSurface(net, LOSSES[0], [(x, y)], parameters="2")
    assert operation(last) is None
    assert operation(LossSurface(net, LOSSES[0], [(x, y)], parameters="0")) == "TanhBackward0"
    _, tied, x, y = problem(CURVED["Addmm"])
    assert operation(LossSurface(tied, LOSSES[0], [(x, y)], parameters="layers.1")) is None


def test_a_batchs_own_statistics_bend():
    surface, *_ = problem(STRAIGHT["batch norm"], mode="train")
    assert operation(surface) is not None


def test_logits_without_a_graph_are_straight():
    assert curved_operation(torch.zeros(2, 3), []) is None
