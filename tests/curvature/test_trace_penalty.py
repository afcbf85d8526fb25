"""The penalty's gradient against the slope of the exact trace, by central differences of dense matrices."""

import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from focalcal import nn as fnn  # noqa: E402
from focalcal.curvature import LossSurface, TracePenalty  # noqa: E402
from focalcal.curvature.penalties import trace_penalty  # noqa: E402


class Attention(nn.Module):
    """Two tokens of three numbers each."""

    def __init__(self):
        super().__init__()
        self.inner, self.out = nn.Linear(3, 3, bias=False), nn.Linear(6, 3)

    def forward(self, x):
        x = self.inner(x.reshape(-1, 1, 2, 3))
        return self.out(F.scaled_dot_product_attention(x, x, x).flatten(1))


def batch_normed(**options):
    net = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3, **options), nn.Tanh(), nn.Linear(3, 3))
    net(torch.randn(50, 6) * 2 + 1)
    return net


NETS = {
    "tanh": lambda: nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 3)),
    "batch norm": batch_normed,
    "batch norm without running statistics": lambda: batch_normed(track_running_stats=False),
    "layer norm": lambda: nn.Sequential(nn.Linear(6, 3), nn.LayerNorm(3), nn.Tanh(), nn.Linear(3, 3)),
    "instance norm": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 6)),
        nn.Conv1d(1, 2, 2),
        nn.InstanceNorm1d(2, affine=True),
        nn.Flatten(),
        nn.Linear(10, 3),
    ),
    "group norm": lambda: nn.Sequential(nn.Linear(6, 4), nn.GroupNorm(2, 4), nn.Tanh(), nn.Linear(4, 3)),
    "weight norm": lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 3)), nn.Tanh()),
    "attention": Attention,
}


def problem(name="tanh", rows=7):
    torch.manual_seed(1)
    net = NETS[name]().double().train()
    for parameter in net.parameters():  # a net at its start has symmetries that hide terms
        nn.init.uniform_(parameter, -1, 1)
    return net, torch.randn(rows, 6, dtype=torch.double), torch.arange(rows) % 3


def slope_of_trace(net, loss, x, y, along, matrix):
    """The change of the dense trace along a direction, by central differences."""

    def trace():
        surface = LossSurface(net, loss, [(x, y)])
        eye = torch.eye(surface.size, dtype=torch.double)
        product = surface.hessian_product if matrix == "hessian" else surface.ggn_product
        return float(product(eye).trace())

    values, step = [], 1e-5
    for sign in (1, -2, 1):
        with torch.no_grad():
            for parameter, part in zip(net.parameters(), along, strict=True):
                parameter.add_(part, alpha=sign * step)
        values.append(trace())
    return (values[0] - values[1]) / (2 * step), values[2]


def along_of(net):
    return [torch.randn(p.shape, dtype=torch.double) for p in net.parameters()]


def check_slope(value, net, along, slope, truth):
    """Compare a penalty and its gradient along a direction with the exact ones."""
    assert value.item() == pytest.approx(truth, rel=1e-9)
    net.zero_grad()
    value.backward()
    found = sum(
        float((p.grad * a).sum()) for p, a in zip(net.parameters(), along, strict=True) if p.grad is not None
    )
    assert found == pytest.approx(slope, rel=1e-5, abs=1e-6)


def patterns(monkeypatch, signs):
    """Let the probes be given ones, one after the other."""
    given = iter(signs)
    monkeypatch.setattr(
        trace_penalty, "signs_like", lambda tensor, generator: next(given).reshape(tensor.shape)
    )


LOSSES = {
    "cross-entropy": nn.CrossEntropyLoss(),
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.1),
    "weighted": nn.CrossEntropyLoss(torch.tensor([0.5, 1.0, 2.0], dtype=torch.double), ignore_index=1),
    "focal": fnn.FocalLoss(3.0),
    "dual": fnn.DualFocalLoss(2.0),
}


@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
@pytest.mark.parametrize(
    ("name", "loss"), [*((name, "cross-entropy") for name in NETS), *(("tanh", loss) for loss in LOSSES)]
)
def test_probes_of_a_basis_have_the_slope_of_the_trace(monkeypatch, name, loss, matrix):
    net, x, y = problem(name)
    along, loss = along_of(net), LOSSES[loss]
    slope, truth = slope_of_trace(net, loss, x, y, along, matrix)
    sizes = [p.numel() for p in net.parameters()]
    basis = torch.eye(sum(sizes), dtype=torch.double)
    patterns(monkeypatch, [part for row in basis for part in row.split(sizes)])
    penalty = TracePenalty(float(len(basis)), matrix=matrix, probes=len(basis))
    check_slope(penalty(net, loss, x, y), net, along, slope, truth)


def test_a_row_that_focal_loss_bends_down_counts_against():
    net, x, y = nn.Linear(1, 2, bias=False).double(), torch.ones(1, 1, dtype=torch.double), torch.tensor([0])
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.0], [4.0]]))  # q of the label is 0.018
    surface = LossSurface(net, fnn.FocalLoss(5.0), [(x, y)])
    truth = float(surface.ggn_product(torch.eye(2, dtype=torch.double)).trace())
    assert truth < 0
    assert TracePenalty(1.0, probes=100)(net, fnn.FocalLoss(5.0), x, y).item() == pytest.approx(
        truth, rel=0.3
    )


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), fnn.FocalLoss(2.0)])
def test_sure_and_ignored_rows_have_finite_gradients(loss):
    net = nn.Linear(2, 3)
    x = torch.tensor([[1e4, 0.0], [-1e4, 1.0], [0.0, 0.0], [1.0, 1.0]])
    TracePenalty(1.0)(net, loss, x, torch.tensor([0, 1, 2, -100])).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_images_of_labels_tuples_and_dicts():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 1)

        def forward(self, image, scale):
            return {"logits": self.conv(image * scale)}

    net, loss = Net(), nn.CrossEntropyLoss()
    x, y = torch.randn(4, 2, 3, 3), torch.randint(3, (4, 3, 3))
    plain = TracePenalty(1.0, probes=2)(net.conv, loss, 2 * x, y)
    assert TracePenalty(1.0, probes=2)(net, loss, {"image": x, "scale": 2.0}, y) == plain
    assert TracePenalty(1.0, probes=2)(net, loss, (x, 2.0), y) == plain
    rows = x.movedim(1, -1).reshape(-1, 2)
    flat = nn.Linear(2, 3)
    flat.load_state_dict({"weight": net.conv.weight.flatten(1), "bias": net.conv.bias})
    torch.testing.assert_close(TracePenalty(1.0, probes=2)(flat, loss, 2 * rows, y.flatten()), plain)


def test_every_kth_call_keeps_the_mean_strength():
    net, x, y = problem()
    often, seldom = TracePenalty(0.5), TracePenalty(0.5, every=3)
    each = [often(net, nn.CrossEntropyLoss(), x, y).item() for _ in range(6)]
    found = [seldom(net, nn.CrossEntropyLoss(), x, y).item() for _ in range(6)]
    assert found == pytest.approx([0, 0, 3 * each[2], 0, 0, 3 * each[5]])
    resumed = TracePenalty(0.5, every=3)
    resumed(net, nn.CrossEntropyLoss(), x, y)
    state = resumed.state_dict()
    resumed = TracePenalty(0.5, every=3)
    resumed.load_state_dict(state)
    resumed(net, nn.CrossEntropyLoss(), x, y)
    assert resumed(net, nn.CrossEntropyLoss(), x, y).item() == found[2]


def test_the_model_is_left_as_it_was():
    net, x, y = problem("batch norm")
    net.insert(0, nn.Dropout(0.5))
    net[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = [m.training for m in net.modules()]
    noise = torch.get_rng_state()
    TracePenalty(0.1, matrix="hessian")(net, nn.CrossEntropyLoss(), x, y)
    assert torch.equal(noise, torch.get_rng_state())
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
def test_running_statistics_that_move_before_the_backward_pass_change_nothing(matrix):
    # torch does not notice that they were overwritten, and returns another gradient
    gradients = []
    for moved in (False, True):
        net, x, y = problem("batch norm")
        value = TracePenalty(0.1, matrix=matrix)(net, nn.CrossEntropyLoss(), x, y)
        if moved:
            net(x)
        value.backward()
        gradients.append(net[0].weight.grad)
    assert torch.equal(*gradients)


def test_autocast_changes_nothing_and_half_models_work():
    net, x, y = problem()
    net, x = net.float(), x.float()
    plain = TracePenalty(1.0)(net, nn.CrossEntropyLoss(), x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert TracePenalty(1.0)(net, nn.CrossEntropyLoss(), x, y) == plain
    half = TracePenalty(1.0)(net.bfloat16(), nn.CrossEntropyLoss(), x.bfloat16(), y)
    assert half.item() == pytest.approx(plain.item(), rel=0.1)


def test_chosen_parameters_alone_are_in_the_trace():
    net, x, y = problem()
    loss = nn.CrossEntropyLoss()
    truth = LossSurface(net, loss, [(x, y)], parameters="2")
    truth = float(truth.ggn_product(torch.eye(truth.size, dtype=torch.double)).trace())
    penalty = TracePenalty(1.0, parameters="2", probes=1000)
    assert penalty(net, loss, x, y).item() == pytest.approx(truth, rel=0.08)
    net[2].requires_grad_(False)
    with pytest.raises(ValueError, match=r"Expected parameters that are trained, got '2\.weight'"):
        penalty(net, loss, x, y)


def test_training_with_it_lowers_the_trace():
    traces = []
    for weight in (None, 0.1):
        net, x, y = problem(rows=30)
        loss, penalty = nn.CrossEntropyLoss(), TracePenalty(weight or 1.0)
        optimizer = torch.optim.SGD(net.parameters(), 0.3)
        for _ in range(100):
            optimizer.zero_grad()
            value = loss(net(x), y)
            (value if weight is None else value + penalty(net, loss, x, y)).backward()
            optimizer.step()
        surface = LossSurface(net, loss, [(x, y)])
        traces.append(float(surface.hessian_product(torch.eye(surface.size, dtype=torch.double)).trace()))
    assert traces[1] < 0.7 * traces[0]


def test_wrong_settings():
    net, x, y = problem()
    with pytest.raises(ValueError, match="Expected weight finite and above 0, got -1"):
        TracePenalty(-1)
    with pytest.raises(ValueError, match="Expected every to be a whole number"):
        TracePenalty(1.0, every=0)
    with pytest.raises(ValueError, match="Expected matrix to be one of 'ggn', 'hessian'"):
        TracePenalty(1.0, matrix="fisher")
    with pytest.raises(ValueError, match=r"Expected a criterion that returns one number, got shape \(7,\)"):
        TracePenalty(1.0, matrix="hessian")(net, nn.CrossEntropyLoss(reduction="none"), x, y)
