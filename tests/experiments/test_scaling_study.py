"""The study of focal temperature scaling: each method by its optimum, means over seeds, differences."""

import importlib.util

import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import ttest_1samp

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from focalcal import FocalTemperatureScaling, TemperatureScaling  # noqa: E402
from focalcal.experiments.over_seeds import over_seeds  # noqa: E402
from focalcal.experiments.recipes import small  # noqa: E402
from focalcal.experiments.scaling_study import (  # noqa: E402
    METHODS,
    METRICS,
    Scores,
    judged,
    mixed,
    read_scores,
    tables,
)

# that γ ends at its bound is a result here
pytestmark = pytest.mark.filterwarnings("ignore:At a bound. gamma:UserWarning")


def scores(seed=0, n=600):
    """Logits that are three times too sure."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(2 * n, 4))
    y = (z + rng.gumbel(size=z.shape)).argmax(1)
    z = (3 * z).astype(np.float32)
    return Scores(z[:n], y[:n], z[n:], y[n:])


QUICK = ("raw", "TS nll", "FTS nll", "TS brier", "FTS brier", "FTS nll, grid", "TS + uniform")


def test_every_method_is_at_its_optimum():
    given = scores()
    found = {name: METHODS[name](given.val_logits, given.val_labels)(given.val_logits) for name in QUICK}
    for log_probs in found.values():
        np.testing.assert_allclose(np.exp(log_probs).sum(1), 1, rtol=1e-5)
    loss = {name: METRICS["nll"](given.val_labels, log_probs) for name, log_probs in found.items()}
    assert loss["FTS nll"] <= loss["FTS nll, grid"] <= loss["TS nll"] + 1e-3
    assert loss["FTS nll"] <= loss["TS nll"] < loss["raw"] - 0.3
    assert (
        loss["TS + uniform"] <= loss["TS nll"] + 1e-6
    )  # with a share of the uniform one that is as good as 0
    brier = {name: METRICS["brier"](given.val_labels, log_probs) for name, log_probs in found.items()}
    assert brier["FTS brier"] <= min(brier["FTS nll"], brier["TS brier"]) + 1e-9
    expected = TemperatureScaling().fit(given.val_logits, given.val_labels).transform(given.val_logits)
    np.testing.assert_allclose(found["TS nll"], expected)
    expected = FocalTemperatureScaling().fit(given.val_logits, given.val_labels)
    np.testing.assert_allclose(found["FTS nll"], expected.transform(given.val_logits))


def test_mixing_with_the_uniform_distribution_finds_its_share():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(20_000, 4)) * 3
    y = (z + rng.gumbel(size=z.shape)).argmax(1)
    noise = rng.random(len(y)) < 0.2
    y[noise] = rng.integers(4, size=noise.sum())
    found = np.exp(mixed((2 * z).astype(np.float32), y)(np.array([[1000.0, 0, 0, 0]])))
    np.testing.assert_allclose(found[0], [0.85, 0.05, 0.05, 0.05], atol=0.01)
    at_two = mixed((2 * z).astype(np.float32), y)(np.array([[2.0, 0.0, 0.0, 0.0]]))
    wanted = np.log(0.8 * np.exp(log_softmax([[1.0, 0, 0, 0]], axis=1)) + 0.05)
    np.testing.assert_allclose(at_two, wanted, atol=0.02)


@pytest.mark.skipif(importlib.util.find_spec("probmetrics") is None, reason="pip install probmetrics")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_structured_matrix_scaling_is_on_the_list():
    given = scores()
    found = judged(given, ["raw", "SMS"])
    assert found["SMS"]["nll"] < found["raw"]["nll"] - 0.3


def test_tables_pair_runs_by_seed(tmp_path):
    runs = []
    for seed in range(4):
        given = scores(seed, n=200)
        np.savez(tmp_path / "scores.npz", **given._asdict())
        read = read_scores(tmp_path)
        np.testing.assert_array_equal(read.test_labels, given.test_labels)
        runs.append(
            (small("digits", "mlp", "ce", seed), judged(read, ["raw", "TS nll", "FTS nll", "TS + uniform"]))
        )
    ((means, apart),) = tables(runs).values()
    assert list(tables(runs)) == ["digits, mlp, ce"]
    raw = [found["raw"]["nll"] for _, found in runs]
    assert means["raw"]["nll"].value == pytest.approx(np.mean(raw))
    assert means["raw"]["nll"].n == 4
    assert list(apart) == ["FTS nll − TS nll", "TS + uniform − TS nll"]
    differences = [found["FTS nll"]["ece"] - found["TS nll"]["ece"] for _, found in runs]
    interval = ttest_1samp(differences, 0).confidence_interval()
    one = apart["FTS nll − TS nll"]["ece"]
    assert (one.low, one.high) == pytest.approx((interval.low, interval.high))
    assert np.isnan(over_seeds([1.0]).low)
    assert str(over_seeds([1.0, 1.0])) == "1.0000 [1.0000, 1.0000]"
