"""Passes over the data: what is kept from one to the next, where they run, and how they leave a model."""

import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from torch import nn  # noqa: E402

from focalcal.curvature import LossSurface, measure  # noqa: E402


def test_a_module_with_two_names_stays_what_it_is():
    shared = nn.Linear(4, 4)
    net = nn.Sequential(shared, nn.Tanh(), shared, nn.Linear(4, 3)).double()
    batches = [(torch.randn(9, 4, dtype=torch.double), torch.arange(9) % 3)]
    own = list(net.parameters())
    surface = LossSurface(net, nn.CrossEntropyLoss(), batches)
    slope = surface.gradient()
    assert slope[: shared.weight.numel()].norm() > 0
    surface.ggn_product(slope)
    measure(net, nn.CrossEntropyLoss(), batches, eigenvalues=1, budget=20)
    assert all(a is b for a, b in zip(net.parameters(), own, strict=True))
    torch.testing.assert_close(surface.gradient(), slope)
    # by torch itself it would not be
    torch.func.functional_call(net, {"0.weight": torch.ones(4, 4, dtype=torch.double)}, (batches[0][0],))
    assert net[0].weight is not own[0]
