"""Norms of elementary operations against the fused ones, and their derivatives against differences."""

import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from focalcal.curvature import LossSurface  # noqa: E402
from focalcal.curvature.surface.exact_norms import ExactNorms  # noqa: E402

IMAGE = torch.linspace(-1, 2, 2 * 3 * 8, dtype=torch.double).sin().reshape(2, 3, 4, 2)
W, B = torch.tensor([0.5, 2.0, -1.0], dtype=torch.double), torch.tensor([0.1, 0.2, 0.3], dtype=torch.double)
NORMS = {
    "layer": lambda x: F.layer_norm(x, (4, 2)),
    "layer of torch": lambda x: torch.layer_norm(x.mT, (4,), W.new_tensor([1, 2, 3, 4]), None, 1e-3),
    "batch": lambda x: F.batch_norm(x, None, None, W, B, True),
    "batch of torch": lambda x: torch.batch_norm(x, W, B, None, None, True, 0.1, 1e-5, False),
    "batch, running": lambda x: F.batch_norm(x, W, W.square(), training=False),
    "instance": lambda x: F.instance_norm(x, None, None, W, B),
    "instance of torch": lambda x: torch.instance_norm(x, None, None, None, None, True, 0.1, 1e-5, False),
    "instance, running": lambda x: F.instance_norm(x, W, W.square(), use_input_stats=False),
    "weight": lambda x: torch._weight_norm(x, x.new_ones(2, 1, 1, 1) * 3, 0),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_of_elementary_operations_have_right_third_derivatives(name):
    x = IMAGE.clone().requires_grad_()
    norm = NORMS[name]
    with ExactNorms():
        assert torch.allclose(norm(x), norm(x.detach()), rtol=1e-12)
    with ExactNorms():
        found = norm(x)
        half = norm(x.bfloat16()) if name == "layer" else None
    torch.testing.assert_close(found, norm(x), rtol=1e-10, atol=1e-12)
    assert half is None or half.dtype == torch.bfloat16

    def bent(x):
        with ExactNorms():
            value = (norm(x).sin() * IMAGE.reshape(norm(x).shape)).sum()
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        return torch.autograd.grad((slope * IMAGE).sum(), x, create_graph=True)[0]

    assert torch.autograd.gradcheck(bent, (x,), eps=1e-5, atol=1e-5)


def test_the_hessian_through_weight_norm_is_that_of_the_gradient():
    net = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), nn.Tanh(), nn.Linear(2, 2)
    ).double()
    x, y = torch.randn(5, 3, dtype=torch.double), torch.arange(5) % 2
    surface = LossSurface(net, nn.CrossEntropyLoss(), [(x, y)])
    v, step, gradients = torch.randn(surface.size, dtype=torch.double), 1e-6, []
    for sign in (1, -2):
        with torch.no_grad():
            for parameter, part in zip(net.parameters(), surface.parameters.split(v), strict=True):
                parameter.add_(part, alpha=sign * step)
        gradients.append(surface.gradient())
    with torch.no_grad():
        for parameter, part in zip(net.parameters(), surface.parameters.split(v), strict=True):
            parameter.add_(part, alpha=step)
    by_differences = (gradients[0] - gradients[1]) / (2 * step)
    torch.testing.assert_close(surface.hessian_product(v), by_differences, rtol=1e-6, atol=1e-8)
