"""Images, labels to ignore, groups and clusters of any shape: they become rows, one for each prediction."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimates import ESTIMATES
from focalcal import (
    accuracy,
    brier,
    classwise_ece,
    compare,
    ece,
    evaluate,
    kernel_ece,
    ks_error,
    nll,
    sharpness,
    smooth_ece,
    top_label_ece,
)
from focalcal.metrics import decomposition, smooth
from predictions import draw, softmax


def images(n=4, k=3, shape=(5, 6), seed=0):
    """Probabilities (N, K, …) and labels (N, …), and the same as rows."""
    z, y = draw(n * int(np.prod(shape)), k, seed)
    p = softmax(z)
    return np.moveaxis(p.reshape(n, *shape, k), -1, 1), y.reshape(n, *shape), p, y


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(smooth, "_DRAWS", 2)
    monkeypatch.setattr(decomposition, "_DRAWS", 2)


@pytest.mark.parametrize("name", ESTIMATES)
@pytest.mark.parametrize("shape", [(5, 6), (12,), (2, 3, 4)])
def test_images_are_judged_as_their_pixels(name, shape):
    p, y, rows, labels = images(shape=shape)
    metric = ESTIMATES[name]
    assert metric(y, p).value == pytest.approx(metric(labels, rows).value, rel=1e-10, abs=1e-12)
    assert metric(y, p).n == len(rows)


def test_images_in_lists_and_logits():
    p, y, rows, labels = images(2, shape=(2, 3))
    assert ece(y.tolist(), p.tolist()).value == pytest.approx(ece(labels, rows).value)
    assert accuracy(y, np.log(p), input="logits").value == accuracy(labels, rows).value


def test_every_image_is_a_cluster():
    p, y, rows, labels = images(10)
    image = np.repeat(np.arange(10), 30)
    whole, by_hand = evaluate(y, p), evaluate(labels, rows, cluster=image)
    for name, e in whole.items():
        assert e == by_hand[name]
    assert whole.n == 300


def test_one_class_and_each_predicted_class_know_of_clusters():
    # every image four times: what looks like four times the rows is not
    p, y, _, _ = images(30, shape=(1, 2))
    fourfold = (np.concatenate([y] * 4, axis=2), np.concatenate([p] * 4, axis=3))
    for metric in (
        lambda y, p: ece(y, p, of_class=1),
        lambda y, p: ece(y, p, of_class=1, binning="equal-mass"),
        ESTIMATES["top label"],
        ESTIMATES["ks"],
    ):
        assert metric(*fourfold).stderr == pytest.approx(metric(y, p).stderr, rel=0.05)


def test_weights_of_images_and_of_pixels():
    p, y, rows, labels = images()
    w = np.random.default_rng(1).random(4)
    pixels = np.repeat(w, 30)
    expected = ece(labels, rows, pixels).value
    assert ece(y, p, w).value == pytest.approx(expected)
    assert ece(y, p, pixels.reshape(4, 5, 6)).value == pytest.approx(expected)
    assert ece(y, p, 2.0).value == pytest.approx(ece(y, p).value)


def test_clusters_and_groups_of_images_and_of_pixels():
    p, y, rows, labels = images(6, seed=1)
    of_images, of_pixels = np.arange(6) // 2, np.repeat(np.arange(6) // 2, 30)
    expected = evaluate(labels, rows, cluster=of_pixels)["ece"]
    assert evaluate(y, p, cluster=of_images)["ece"] == expected
    assert evaluate(y, p, cluster=of_pixels.reshape(6, 5, 6))["ece"] == expected
    groups = np.array(["cats", "dogs"])[np.arange(6) % 2]
    for by in (groups, np.repeat(groups, 30).reshape(6, 5, 6)):
        found = {one.value: one for one in evaluate(y, p, by=by).segments}
        assert list(found) == ["cats", "dogs"] or list(found) == ["dogs", "cats"]
        assert found["cats"].last["ece"].value == pytest.approx(ece(y[::2], p[::2]).value)


@given(st.integers(2, 40), st.integers(0, 500))
@settings(max_examples=12)
def test_ignored_rows_are_dropped(n, seed):
    rng = np.random.default_rng(seed)
    z, y = draw(n, 3, seed)
    p, w, c, by = softmax(z), rng.random(n), np.arange(n), rng.integers(0, 2, n)
    labels = np.where(rng.random(n) < 0.3, 255, y)
    labels[:2] = y[:2]
    kept = labels != 255
    found = evaluate(labels, p, w, cluster=c, by=by, ignore_index=255)
    expected = evaluate(y[kept], p[kept], w[kept], cluster=c[kept], by=by[kept])
    assert str(found.metrics) == str(expected.metrics)  # which says nan where nan is
    assert str([one.to_dict() for one in found.segments]) == str([one.to_dict() for one in expected.segments])
    assert found.n == kept.sum()


def test_ignored_pixels_and_names():
    p, y, rows, labels = images(5)
    marked = np.where(np.random.default_rng(1).random(y.shape) < 0.2, -1, y)
    kept = marked.reshape(-1) != -1
    found = evaluate(marked, p, ignore_index=-1)
    assert found["ece"].value == pytest.approx(ece(labels[kept], rows[kept]).value)
    assert (
        found["ece"] == evaluate(labels[kept], rows[kept], cluster=np.repeat(np.arange(5), 30)[kept])["ece"]
    )
    named = evaluate(["a", "void", "b"], [[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]], ignore_index="void")
    assert named["ece"].value == pytest.approx(0.15)


def test_two_sets_of_predictions_ignore_the_same_rows():
    z, y = draw(50, 3)
    labels = np.where(np.arange(50) % 5 == 0, 255, y)
    kept = labels != 255
    a, b = softmax(z), softmax(z / 2)
    found = compare(labels, a, b, ignore_index=255)
    expected = compare(y[kept], a[kept], b[kept])
    assert {name: one.to_dict() for name, one in found.items()} == {
        name: one.to_dict() for name, one in expected.items()
    }


IMAGES = images(2, shape=(2, 3))
P, Y = [[0.6, 0.4], [0.5, 0.5], [0.2, 0.8]], [0, 1, 255]
ERRORS = [
    (
        Y,
        P,
        {"ignore_index": 255, "sample_weight": [1, 2]},
        r"Expected sample_weight with one entry for each of",
    ),
    (
        Y,
        P,
        {"ignore_index": 255, "cluster": [1, 2]},
        r"Expected cluster with one entry for each of the 3 rows",
    ),
    (
        Y,
        P,
        {"ignore_index": 255, "by": [1, 2]},
        r"Expected by with one entry for each of the 3 rows of X, got 2",
    ),
    ([*Y, 1], P, {"ignore_index": 255}, r"Expected y with one entry for each of the 3 rows of X, got 4"),
    (
        [255] * 3,
        P,
        {"ignore_index": 255},
        r"Expected labels other than ignore_index=255, one a row, got none\. Check which label marks",
    ),
    (
        IMAGES[1],
        np.moveaxis(IMAGES[0], 1, -1),
        {},
        r"Expected y_prob of shape \(N, K, d1, …\) with y of shape .*, got \(2, 2, 3, 3\) and \(2, 2, 3\)\.",
    ),
    (
        *IMAGES[1::-1],
        {"cluster": [1, 2, 3]},
        r"Expected cluster with one entry for each of the 12 rows of X, got 3",
    ),
    (*IMAGES[1::-1], {"by": [1, 2, 3]}, r"Expected by with one entry for each of the 12 rows of X, got 3"),
    (
        [0, 1, 1],
        P,
        {"cluster": np.zeros((3, 2))},
        r"Expected cluster of shape \(n,\), got shape \(3, 2\)\. Pass one",
    ),
    (
        [0, 1, 1],
        P,
        {"by": np.zeros((3, 2))},
        r"Expected by of shape \(n,\), got shape \(3, 2\)\. Pass one value",
    ),
    ([0, 1, 1], P, {"cluster": 7}, r"Expected cluster of shape \(n,\), got shape \(\)\. Pass one value for"),
    (
        [0, 1, 1],
        P,
        {"cluster": [None, "a", "b"]},
        r"Expected cluster of one kind \(all numbers or all names\), got NoneType, str\. Give rows whose",
    ),
    (
        [0, 1, 1],
        P,
        {"cluster": [4, 4, 4]},
        r"Expected at least 2 clusters, got 1: rows that all belong together",
    ),
]


@pytest.mark.parametrize(("y", "p", "options", "message"), ERRORS)
def test_what_cannot_be_laid_out_is_one_clear_error(y, p, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(y, p, **options)


def test_sharpness_of_images_is_that_of_their_pixels():
    p, _, rows, _ = images()
    assert sharpness(p).value == pytest.approx(sharpness(rows).value, rel=1e-12)


@pytest.mark.parametrize(
    "metric",
    [nll, brier, accuracy, ece, classwise_ece, top_label_ece, smooth_ece, ks_error, kernel_ece],
    ids=lambda metric: metric.__name__,
)
def test_each_metric_drops_ignored_rows(metric):
    z, y = draw(120, 3, seed=5)
    marked = np.where(np.arange(120) % 4 == 0, 255, y)
    kept = marked != 255
    assert metric(marked, z, input="logits", ignore_index=255) == metric(y[kept], z[kept], input="logits")
