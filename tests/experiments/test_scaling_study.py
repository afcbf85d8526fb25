"""The study of focal temperature scaling: each method by its optimum, what is kept, means and claims."""

import importlib.util
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import ttest_1samp

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from focalcal import FocalTemperatureScaling, TemperatureScaling, focal_map, temperature_map  # noqa: E402
from focalcal.calibrators.temperature.ece_search import GRID_GAMMAS, GRID_TEMPERATURES  # noqa: E402
from focalcal.experiments.over_seeds import over_groups, over_seeds  # noqa: E402
from focalcal.experiments.recipes import small  # noqa: E402
from focalcal.experiments.scaling import study as scaling_study  # noqa: E402
from focalcal.experiments.scaling.claims import CLAIMED, cells, claim, claims  # noqa: E402
from focalcal.experiments.scaling.grid import best_cell, grid_losses  # noqa: E402
from focalcal.experiments.scaling.methods import METHODS, METRICS, mixed  # noqa: E402
from focalcal.experiments.scaling.study import Scores, fitted, judged, read_scores, study, study_sweep  # noqa: E402
from focalcal.experiments.sweep import Sweep  # noqa: E402

# that γ ends at its bound is a result here
pytestmark = pytest.mark.filterwarnings("ignore:At a bound. gamma:UserWarning")

QUICK = ("raw", "TS nll", "FTS nll", "TS brier", "FTS brier", "grid", "TS + uniform")


def scores(seed=0, n=600):
    """Logits that are three times too sure."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(2 * n, 4))
    y = (z + rng.gumbel(size=z.shape)).argmax(1)
    z = (3 * z).astype(np.float32)
    return Scores(z[:n], y[:n], z[n:], y[n:])


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Three finished runs, judged by few methods."""
    few = [name for name in QUICK if name != "grid"]
    monkeypatch.setattr(scaling_study, "METHODS", {name: METHODS[name] for name in few})
    monkeypatch.setattr(fitted, "__defaults__", (few,))
    found = Sweep(tmp_path)
    recipes = [small("digits", "mlp", "ce", seed) for seed in range(3)]
    found.add(recipes)
    for seed, recipe in enumerate(recipes):
        folder = tmp_path / recipe.key
        folder.mkdir()
        np.savez(folder / "scores.npz", **scores(seed, n=200)._asdict())
        (folder / "run.json").write_text(json.dumps({"recipe": recipe.to_dict(), "seconds": 2.0}))
        found.close(recipe.key, "done")
    return found


def test_every_method_is_at_its_optimum():
    given = scores()
    on_itself = given._replace(test_logits=given.val_logits)
    found = {name: log_probs for name, (_, log_probs) in fitted(on_itself, QUICK).items()}
    assert len(found) == len(QUICK) + 2
    for log_probs in found.values():
        np.testing.assert_allclose(np.exp(log_probs).sum(1), 1, rtol=1e-5)
    loss = {name: METRICS["nll"](given.val_labels, log_probs) for name, log_probs in found.items()}
    assert loss["FTS nll"] <= loss["FTS nll, grid"] <= loss["TS nll"] + 1e-3
    assert loss["FTS nll"] <= loss["TS nll"] < loss["raw"] - 0.3
    # with a share of the uniform one that is as good as 0
    assert loss["TS + uniform"] <= loss["TS nll"] + 1e-6
    brier = {name: METRICS["brier"](given.val_labels, log_probs) for name, log_probs in found.items()}
    assert brier["FTS brier"] <= min(brier["FTS nll"], brier["TS brier"]) + 1e-9
    expected = TemperatureScaling().fit(given.val_logits, given.val_labels).transform(given.val_logits)
    np.testing.assert_allclose(found["TS nll"], expected)
    expected = FocalTemperatureScaling().fit(given.val_logits, given.val_labels)
    np.testing.assert_allclose(found["FTS nll"], expected.transform(given.val_logits))


@pytest.mark.parametrize("classes", [3, 40])
def test_the_grid_holds_the_losses_of_the_maps(classes):
    rng = np.random.default_rng(1)
    z = (4 * rng.normal(size=(90, classes))).astype(np.float32)
    y = rng.integers(classes, size=90)
    z[0], y[0] = 1.0, 0  # all tied
    z[1, 0], y[1] = 99.0, 1  # too sure for any precision at T = .05
    found = grid_losses(z, y)
    for i, k in ((0, 0), (0, 10), (19, 4), (40, 9), (99, 1)):
        mapped = focal_map(temperature_map(z, GRID_TEMPERATURES[i]), GRID_GAMMAS[k])
        for criterion, losses in found.items():
            assert losses[i, k] == pytest.approx(METRICS[criterion](y, mapped), rel=2e-5)
    place = np.unravel_index(found["ece"].argmin(), (100, 11))
    assert best_cell(found["ece"]) == (GRID_TEMPERATURES[place[0]], GRID_GAMMAS[place[1]])


def test_mixing_with_the_uniform_distribution_finds_its_share():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(20_000, 4)) * 3
    y = (z + rng.gumbel(size=z.shape)).argmax(1)
    noise = rng.random(len(y)) < 0.2
    y[noise] = rng.integers(4, size=noise.sum())
    found = mixed((2 * z).astype(np.float32), y)
    assert found.parameters == pytest.approx({"temperature": 2.0, "share": 0.2}, abs=0.05)
    sure, middling = np.exp(found.map(np.array([[1000.0, 0, 0, 0], [2.0, 0, 0, 0]])))
    np.testing.assert_allclose(sure, [0.85, 0.05, 0.05, 0.05], atol=0.01)
    np.testing.assert_allclose(middling, 0.8 * np.exp(log_softmax([1.0, 0, 0, 0])) + 0.05, atol=0.01)


def test_mixing_has_its_own_slope():
    given = scores(n=200)
    found = mixed(given.val_logits, given.val_labels)

    def loss(temperature, share):
        p = np.exp(log_softmax(given.val_logits.astype(float) / temperature, axis=1))
        return -np.log((1 - share) * p + share / 4)[np.arange(200), given.val_labels].mean()

    least = loss(**found.parameters)
    for temperature in (0.99, 1.01):
        assert loss(found.parameters["temperature"] * temperature, found.parameters["share"]) > least - 1e-9


@pytest.mark.skipif(importlib.util.find_spec("probmetrics") is None, reason="pip install probmetrics")
def test_structured_matrix_scaling_is_on_the_list():
    given = scores()
    found = judged(given, fitted(given, ["raw", "SMS"]))["found"]
    assert found["SMS"]["metrics"]["nll"] < found["raw"]["metrics"]["nll"] - 0.3


def test_a_study_is_kept(sweep, tmp_path, monkeypatch):
    first = study_sweep(tmp_path)
    assert [recipe.seed for recipe, _ in first] == [0, 1, 2]
    recipe, told = first[0]
    given = read_scores(tmp_path / recipe.key)
    assert told["rows"] == {"validation": 200, "test": 200}
    assert told["accuracy"] == np.mean(given.test_logits.argmax(1) == given.test_labels)
    ts = TemperatureScaling().fit(given.val_logits, given.val_labels)
    one = told["found"]["TS nll"]
    assert one["parameters"] == {"temperature": pytest.approx(ts.temperature_)}
    expected = METRICS["brier"](given.test_labels, ts.transform(given.test_logits))
    assert one["metrics"]["brier"] == pytest.approx(expected)
    assert one["metrics"]["ece"] != one["metrics"]["ece, equal width"]

    with monkeypatch.context() as patched:  # nothing is judged twice
        patched.setattr(scaling_study, "judged", None)
        told = []
        with ThreadPoolExecutor(2) as executor:
            again = study_sweep(tmp_path, executor=executor, progress=lambda *said: told.append(said))
        assert again == first
        assert told[-1] == (first[-1][0].key, 3, 3)
        patched.setattr(scaling_study, "VERSION", 0)
        with pytest.raises(TypeError, match="not callable"):
            study(tmp_path / recipe.key)
    monkeypatch.setattr(scaling_study, "METHODS", {"raw": METHODS["raw"]})
    monkeypatch.setattr(fitted, "__defaults__", (("raw",),))
    assert list(study(tmp_path / recipe.key)["found"]) == ["raw"]


def test_cells_pair_runs_by_seed(sweep, tmp_path):
    runs = study_sweep(tmp_path)
    (cell,) = cells(runs)
    assert cell.name == ("digits", "mlp", "ce")
    assert cell.seconds == 6.0
    raw = [told["found"]["raw"]["metrics"]["nll"] for _, told in runs]
    assert cell.mean("raw", "nll").value == pytest.approx(np.mean(raw))
    temperatures = [told["found"]["FTS nll"]["parameters"]["temperature"] for _, told in runs]
    assert cell.parameters["FTS nll"]["temperature"] == temperatures
    found = {(one.method, one.rival, one.metric): one for one in claims([cell])}
    assert ("SMS", "TS nll", "nll") not in found
    assert len(found) == len(CLAIMED) * 5
    plain = [told["found"]["TS nll"]["metrics"]["nll"] for _, told in runs]
    interval = ttest_1samp(np.subtract(plain, raw), 0).confidence_interval()
    one = found["TS nll", "raw", "nll"]
    assert one.cells[0][1].low == pytest.approx(interval.low)
    assert one.cells[0][1].high == pytest.approx(interval.high)
    assert (one.count("below"), one.count("above"), one.count("open")) == (1, 0, 0)
    assert claims([]) == []


def test_cells_refuse_runs_that_differ_in_more(sweep, tmp_path):
    (recipe, told), *_ = study_sweep(tmp_path)
    for other in (recipe, replace(recipe, seed=5, epochs=2)):
        with pytest.raises(ValueError, match="differ in their seeds alone"):
            cells([(recipe, told), (other, told)])
    controlled = replace(recipe, penalty=1e-4)
    assert [cell.name[2] for cell in cells([(recipe, told), (controlled, told)])] == [
        "ce",
        "ce + trace penalty 0.0001",
    ]


def test_settings_count_as_one_where_runs_are_pooled():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=6)
    interval = ttest_1samp(centres, 0).confidence_interval()
    pooled = over_groups([[c, c, c, c] for c in centres])
    assert (pooled.low, pooled.high, pooled.n) == pytest.approx((interval.low, interval.high, 24))
    values = rng.normal(size=5)
    assert over_groups([[value] for value in values]) == over_seeds(values)
    assert np.isnan(over_seeds([1.0]).low)
    assert over_seeds([1.0]).side == "open"
    assert over_seeds([0.0, 0.0]).side == "open"
    assert (over_seeds([1.0, 1.1]).side, over_seeds([-1.0, -1.1]).side) == ("above", "below")
    assert str(over_seeds([1.0, 1.0])) == "1.0000 [1.0000, 1.0000]"


def test_a_claim_counts_settings():
    def run(loss, seed, better):
        metrics = {"FTS nll": {"nll": 1.0 - better}, "TS nll": {"nll": 1.0}}
        found = {name: {"metrics": held, "parameters": {}} for name, held in metrics.items()}
        told = {"found": found, "accuracy": 0.5, "run": {"seconds": 1.0}}
        return small("digits", "mlp", loss, seed), told

    gains = {"ce": (0.1, 0.11), "focal-3": (-0.1, -0.11), "dual": (0.1, -0.1), "brier": (0.2, 0.21)}
    held = cells(run(loss, seed, gain) for loss, each in gains.items() for seed, gain in enumerate(each))
    one = claim(held, "FTS nll", "TS nll", "nll")
    assert (one.count("below"), one.count("above"), one.count("open")) == (2, 1, 1)
    assert one.pooled.value == pytest.approx(-np.mean(list(gains.values())))
    assert one.to_dict()["cells"][1]["cell"] == ["digits", "mlp", "focal-3"]
