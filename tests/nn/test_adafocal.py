"""AdaFocal's γ against a plain rendering of the rule, and its state through checkpoints and over ranks."""

import copy
import math
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from focalcal.nn import AdaFocalLoss, CalFocalLoss, adafocal_loss  # noqa: E402
from ranks import run_two_ranks  # noqa: E402


def recorded(epochs=30, n=700, n_classes=6):
    """Validation logits of a network that is at first underconfident and then ever more overconfident."""
    rng = np.random.default_rng(5)
    for epoch in range(epochs):
        z = rng.normal(size=(n, n_classes)) * 3
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        y = (p.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
        yield z * (0.2 if epoch < 12 else 0.1 * epoch), y


def by_hand(epochs, bins=15):
    """Yield γ after each epoch: the rule in plain NumPy, one bin after another."""
    gamma = [1.0] * bins
    for z, y in epochs:
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        confidence, right = p.max(axis=1), p.argmax(axis=1) == y
        ordered = np.sort(confidence)
        lows = [-math.inf] + [ordered[b * len(y) // bins] for b in range(1, bins)]
        highs = [*lows[1:], math.inf]
        for b in range(bins):
            inside = (confidence >= lows[b]) & (confidence < highs[b])
            gap = confidence[inside].mean() - right[inside].mean() if inside.any() else 0.0
            new = gamma[b] * math.exp(gap if gamma[b] > 0 else -gap)
            if abs(new) < 0.2:
                new = -0.2 if new > 0 else 0.2
            gamma[b] = min(max(new, -2.0), 20.0)
        yield list(gamma), lows[1:]


def test_trajectory_equals_the_rule_by_hand():
    loss = AdaFocalLoss()
    signs = set()
    for (z, y), (gamma, edges) in zip(recorded(), by_hand(recorded()), strict=True):
        loss.update(torch.tensor(z), torch.tensor(y))
        np.testing.assert_allclose(loss.gamma, gamma, rtol=1e-6)
        np.testing.assert_allclose(loss.edges, edges, rtol=1e-9)
        signs |= {float(np.sign(g)) for g in gamma}
    assert signs == {-1.0, 1.0}  # the record passes through focal and inverse focal loss
    assert (abs(loss.gamma - 1) > 0.1).sum() > 10


def test_a_sample_takes_the_gamma_of_its_bin():
    loss = AdaFocalLoss(bins=4, reduction="none")
    loss.gamma.copy_(torch.tensor([3.0, 0.0, -1.5, 1.0]))
    z = torch.randn(200, 3, dtype=torch.double) * 2
    y = torch.randint(3, (200,))
    q = torch.softmax(z, 1).gather(1, y[:, None])[:, 0]
    gamma = loss.gamma[(q * 4).long()]
    base = torch.where(gamma >= 0, 1 - q, 1 + q)
    torch.testing.assert_close(loss(z, y), -(base ** gamma.abs()) * q.log())
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z[:5], y[:5]), z)


def test_the_function_takes_the_state_in_any_precision():
    loss = AdaFocalLoss(bins=3, reduction="none")
    loss.gamma.copy_(torch.tensor([3.0, -1.5, 0.5]))
    z, y = torch.randn(40, 3), torch.randint(3, (40,))
    found = adafocal_loss(z, y, loss.gamma.float(), loss.edges[[0, 1]].float(), reduction="none")
    torch.testing.assert_close(found, loss(z, y))
    with pytest.raises(ValueError, match="Expected one gamma a bin and one edge fewer"):
        adafocal_loss(z, y, loss.gamma, loss.gamma)


def test_probabilities_images_and_ignored_rows_update_alike():
    z, y = torch.randn(12, 4, 5, dtype=torch.double), torch.randint(4, (12, 5))
    y[::3] = -100
    first, second, third = AdaFocalLoss(5), AdaFocalLoss(5), AdaFocalLoss(5)
    first.update(z, y)
    second.update(torch.softmax(z, 1), y, probabilities=True)
    flat, labels = z.movedim(1, 2).reshape(-1, 4), y.reshape(-1)
    third.update(flat[labels >= 0], labels[labels >= 0])
    torch.testing.assert_close(first.gamma, second.gamma)
    torch.testing.assert_close(first.gamma, third.gamma)
    assert first.updates == 1


def test_gamma_is_clipped_and_switches():
    loss = AdaFocalLoss(bins=1)
    sure, wrong = torch.tensor([[20.0, 0.0]]), torch.tensor([1])
    for _ in range(5):
        loss.update(sure, wrong)
    assert loss.gamma == 20.0
    down = AdaFocalLoss(bins=1, gamma=0.2)
    down.update(torch.zeros(2, 3) + torch.tensor([0.1, 0, 0]), torch.tensor([0, 0]))
    assert down.gamma == -0.2
    back = AdaFocalLoss(bins=1, gamma=-0.21)
    back.update(sure, wrong)
    assert back.gamma == 0.2


@pytest.mark.parametrize("kind", [AdaFocalLoss, CalFocalLoss])
def test_a_run_resumes_exactly(kind):
    epochs = [(torch.tensor(z), torch.tensor(y)) for z, y in recorded(4)]
    whole, half = kind(), kind()
    for epoch in epochs:
        whole.update(*epoch)
    for epoch in epochs[:2]:
        half.update(*epoch)
    resumed = kind()
    resumed.load_state_dict(half.state_dict())
    twins = [resumed, copy.deepcopy(half), pickle.loads(pickle.dumps(half))]
    for twin in twins:
        for epoch in epochs[2:]:
            twin.update(*epoch)
        assert torch.equal(twin.gamma, whole.gamma)
        assert torch.equal(twin(*epochs[0]), whole(*epochs[0]))
    assert set(whole.state_dict()) == {"gamma", "edges", "updates"}
    assert "bins=15, updates=4" in repr(whole)


def test_calfocal_is_proportional_to_the_gap():
    loss = CalFocalLoss(bins=1, rate=8.0)
    logits = torch.log(torch.tensor([[0.25, 0.75]])).expand(4, 2)
    loss.update(logits, torch.tensor([1, 1, 1, 1]))
    torch.testing.assert_close(loss.gamma, torch.tensor([-2.0], dtype=torch.double), rtol=1e-6, atol=0)
    torch.testing.assert_close(loss(logits, torch.tensor([1] * 4)), torch.tensor(1.75**2 * math.log(4 / 3)))


def rank_of_two(rank, results):
    loss = AdaFocalLoss()
    for z, y in recorded(2):
        part = slice(0, 500) if rank == 0 else slice(500, 700)  # unequal shares
        loss.update(torch.tensor(z[part]), torch.tensor(y[part]))
    torch.save(loss.state_dict(), f"{results}/{rank}")


@pytest.mark.slow
def test_two_ranks_equal_one_process(tmp_path):
    run_two_ranks(rank_of_two, tmp_path, str(tmp_path))
    alone = AdaFocalLoss()
    for z, y in recorded(2):
        alone.update(torch.tensor(z), torch.tensor(y))
    for rank in range(2):
        state = torch.load(tmp_path / str(rank))
        torch.testing.assert_close(state["gamma"], alone.gamma, rtol=1e-12, atol=0)
        assert torch.equal(state["edges"], alone.edges)


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="Expected at least 1 bin, got 0"):
        AdaFocalLoss(bins=0)
    with pytest.raises(ValueError, match="Expected gamma between gamma_min"):
        AdaFocalLoss(gamma=30.0)
    with pytest.raises(ValueError, match="Expected class indices of shape"):
        AdaFocalLoss().update(torch.zeros(3, 2), torch.zeros(2))
    with pytest.raises(ValueError, match="Expected at least one validation row"):
        AdaFocalLoss().update(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))


def test_moving_a_network_does_not_round_the_state():
    loss = AdaFocalLoss(weight=torch.ones(6))
    loss.update(*(torch.tensor(part) for part in next(recorded())))
    before = loss.gamma.clone()
    network = torch.nn.ModuleList([loss, torch.nn.Linear(2, 2)]).to(torch.bfloat16)
    assert network[1].weight.dtype == loss.weight.dtype == torch.bfloat16
    assert torch.equal(loss.gamma, before)
    assert loss.edges.dtype == torch.float64
    away = copy.deepcopy(loss).to("meta")
    assert away.gamma.is_meta
    assert away.edges.is_meta
    assert set(away.state_dict()) == {"gamma", "edges", "updates", "weight"}


@pytest.mark.parametrize("kind", [AdaFocalLoss, CalFocalLoss])
def test_what_is_no_confidence_does_not_reach_the_bins(kind):
    z, y, loss = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, -100]), kind(bins=2)
    broken = z.clone()
    broken[1, 2] = torch.nan
    for update in (
        lambda: loss.update(broken, y),
        lambda: loss.update(z + 5, y, probabilities=True),
        lambda: loss.update(z - 50, y, probabilities=True),
    ):
        with pytest.raises(ValueError, match=r"Expected confidences in \[0, 1\], got min="):
            update()
    with pytest.raises(ValueError, match=r"Expected labels in 0\.\.2, got 1\.\.3"):
        loss.update(z[:5], y[:5].abs() % 3 + 1)
    torch.testing.assert_close(loss.state_dict(), kind(bins=2).state_dict())
    broken[5] = torch.nan  # left out
    loss.update(broken[[0, 2, 3, 4, 5]], y[[0, 2, 3, 4, 5]])


def test_a_network_made_on_the_meta_device():
    with torch.device("meta"):
        loss = AdaFocalLoss(bins=2)
    loss = loss.to_empty(device="cpu")
    made = AdaFocalLoss(bins=2, gamma=3.0)
    loss.load_state_dict(made.state_dict())
    torch.testing.assert_close(loss.state_dict(), made.state_dict())
