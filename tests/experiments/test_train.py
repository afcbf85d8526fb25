"""Training: the recipe is followed, and a run that is stopped anywhere ends where it would have."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from focalcal.experiments import train as training  # noqa: E402
from focalcal.experiments.datasets import open_dataset  # noqa: E402
from focalcal.experiments.recipes import LOSSES, Recipe, from_dict, published, small  # noqa: E402
from focalcal.experiments.train import train  # noqa: E402
from ranks import run_two_ranks  # noqa: E402


@pytest.fixture(scope="module")
def digits():
    return open_dataset("digits").smaller(150)


OWN = {"epochs": 3, "drops": (2,), "batch_size": 64, "rate": 0.05}
RECIPE = Recipe("digits", "small_cnn", "ce", 3, reduction="mean", **OWN)


def results(folder):
    weights = torch.load(folder / "weights.pt", weights_only=True)
    with np.load(folder / "scores.npz") as file:
        return weights, {name: file[name] for name in file}


def assert_the_same(one, other):
    for name, tensor in one[0].items():
        assert torch.equal(tensor, other[0][name]), name
    for name, array in one[1].items():
        np.testing.assert_array_equal(array, other[1][name])


@pytest.mark.parametrize(
    "change",
    [{}, {"loss": "adafocal", "augment": False}, {"rho": 0.05}, {"penalty": 1e-3, "reduction": "sum"}],
    ids=["ce", "adafocal", "sam", "penalty"],
)
def test_stopped_after_every_two_steps_it_ends_the_same(change, digits, tmp_path):
    recipe = replace(RECIPE, **change)
    assert train(recipe, digits, tmp_path / "whole")
    count = 1
    while not train(recipe, digits, tmp_path / "parts", steps=2):
        assert (tmp_path / "parts" / "checkpoint.pt").is_file()
        count += 1
    assert count == 5  # nine steps
    assert_the_same(results(tmp_path / "whole"), results(tmp_path / "parts"))
    assert not (tmp_path / "parts" / "checkpoint.pt").exists()
    assert train(recipe, digits, tmp_path / "parts")  # there is nothing left to do


def test_what_is_written(digits, tmp_path):
    told = []
    train(RECIPE, digits, tmp_path, progress=lambda what, step, steps: told.append((what, step, steps)))
    weights, scores = results(tmp_path)
    model = training.NETS["small_cnn"](1, 8, 10)
    model.load_state_dict(weights)
    with torch.no_grad():
        logits = model.eval()(digits.normalised(digits.test.x))
    np.testing.assert_allclose(scores["test_logits"], logits.numpy(), atol=1e-5)
    np.testing.assert_array_equal(scores["val_labels"], digits.val.y.numpy())
    run = json.loads((tmp_path / "run.json").read_text())
    assert from_dict(run["recipe"]) == RECIPE
    assert run["steps"] == 9
    assert told == [(RECIPE.key, step, 9) for step in range(1, 10)]


def test_one_step_by_hand(digits, tmp_path):
    recipe = replace(RECIPE, epochs=1, batch_size=150, augment=False, reduction="sum", clip=0.5, rate=0.3)
    torch.manual_seed(recipe.seed)
    model = training.NETS["small_cnn"](1, 8, 10)
    x, y = digits.normalised(digits.train.x), digits.train.y
    torch.nn.functional.cross_entropy(model(x), y, reduction="sum").backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    expected = [p - 0.3 * (p.grad + 5e-4 * p) for p in model.parameters()]
    train(recipe, digits, tmp_path)
    for found, wanted in zip(results(tmp_path)[0].values(), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_seeds_orders_and_flipped_labels_differ(digits, tmp_path):
    recipe = replace(RECIPE, epochs=1)
    for name, one in {
        "a": recipe,
        "b": replace(recipe, seed=4),
        "c": replace(recipe, label_noise=0.5),
    }.items():
        train(one, digits, tmp_path / name)
    logits = [results(tmp_path / name)[1]["test_logits"] for name in "abc"]
    assert np.abs(logits[0] - logits[1]).max() > 0.01
    assert np.abs(logits[0] - logits[2]).max() > 0.01
    y = torch.arange(1000) % 10
    moved = training.noisy(y, 0.3, 10, seed=0)
    assert int((moved != y).sum()) == 300
    assert int(moved.max()) == 9
    assert torch.equal(training.noisy(y, 0.0, 10, seed=0), y)


def test_augmented_images_are_crops_of_the_padded_ones():
    x = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).reshape(2, 3, 8, 8)
    for number in range(20):
        found = training.augmented(x, torch.Generator().manual_seed(number))
        padded = torch.nn.functional.pad(x, (4, 4, 4, 4))
        both = torch.stack([padded, padded.flip(3)])
        crops = [both[:, :, :, i : i + 8, j : j + 8] for i in range(9) for j in range(9)]
        for i in range(2):
            assert any(torch.equal(found[i], crop[side, i]) for crop in crops for side in (0, 1))


def test_recipes():
    recipe = published("cifar100", "resnet110", "focal-3", seed=2)
    assert (recipe.epochs, recipe.drops, recipe.batch_size, recipe.clip, recipe.reduction) == (
        *(350, (150, 250), 128, 2.0, "sum"),
    )
    assert [recipe.rate_at(epoch) for epoch in (0, 149, 150, 249, 250)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001]
    )
    tiny = published("tinyimagenet", "resnet110", "ce")
    assert (tiny.epochs, tiny.drops, tiny.batch_size) == (100, (40, 60), 64)
    keys = {small("digits", "mlp", loss, seed).key for loss in LOSSES for seed in range(3)}
    assert len(keys) == 3 * len(LOSSES)
    assert from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    for wrong in ({"net": "vgg"}, {"loss": "mse"}, {"penalty": 1.0, "rho": 0.1}, {"label_noise": 1.0}):
        with pytest.raises(ValueError, match=r"^Expected "):
            replace(RECIPE, **wrong).checked()
    for make in LOSSES.values():
        found = make("sum")(torch.zeros(2, 3), torch.tensor([0, 1]))
        assert math.isfinite(float(found))


def test_a_checkpoint_of_another_recipe_and_a_loss_that_explodes(digits, tmp_path):
    train(RECIPE, digits, tmp_path, steps=1)
    with pytest.raises(ValueError, match=r"Expected a checkpoint of .* got another's"):
        train(replace(RECIPE, rate=0.2), digits, tmp_path)
    with pytest.raises(ValueError, match=r"Expected a finite loss, got nan at step"):
        train(replace(RECIPE, rate=1e20, clip=1e20), digits, tmp_path / "other")


def rank_of_two(rank, folder):
    train(replace(RECIPE, reduction="sum"), open_dataset("digits").smaller(150), Path(folder))


@pytest.mark.slow
def test_two_processes_train_as_one(digits, tmp_path):
    train(replace(RECIPE, reduction="sum"), digits, tmp_path / "one")
    run_two_ranks(rank_of_two, tmp_path, str(tmp_path / "two"))
    one, two = results(tmp_path / "one"), results(tmp_path / "two")
    for name, tensor in one[0].items():
        torch.testing.assert_close(two[0][name], tensor, rtol=1e-3, atol=1e-4)
    assert json.loads((tmp_path / "two" / "run.json").read_text())["processes"] == 2
