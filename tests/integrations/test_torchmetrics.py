"""CalibrationMetric equals `focalcal.evaluate` on all rows together, through everything torchmetrics does."""

import importlib
import math
import pickle
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")
torchmetrics = pytest.importorskip("torchmetrics", reason="pip install torchmetrics")

from focalcal import CalibrationWarning, evaluate  # noqa: E402
from focalcal.integrations.torchmetrics import CalibrationMetric  # noqa: E402
from ranks import run_two_ranks  # noqa: E402

NAMES = ["nll", "brier", "accuracy", "ece", "classwise_ece"]


def assert_same(found, expected, names=NAMES):
    for name in names:
        e = expected[name]
        ends = [found[name].item(), found[f"{name}_low"].item(), found[f"{name}_high"].item()]
        np.testing.assert_allclose(ends, [e.value, e.low, e.high], rtol=1e-12, atol=1e-12, err_msg=name)
    assert found["n"] == expected.n


def filled(z, y, step=97, **options):
    metric = CalibrationMetric(z.shape[1], classwise=True, **options)
    for i in range(0, len(z), step):
        metric.update(z[i : i + step], y[i : i + step])
    return metric


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["logits", "probs"])
def test_batches_equal_evaluate(rows, dtype, kind):
    z, y = (torch.tensor(part) for part in rows)
    if kind == "probs":
        z = torch.softmax(z, 1)
        dtype = torch.float32 if dtype == torch.bfloat16 else dtype  # its rows do not sum to 1
    z = z.to(dtype)
    whole = z.float() if dtype == torch.bfloat16 else z  # which NumPy does not have
    expected = evaluate(y.numpy(), whole.numpy(), input=kind, ignore_index=-100)
    metric = filled(z, y, input=kind)
    assert_same(metric.compute(), expected)
    found = metric.evaluation()
    assert found.n_classes == 4
    np.testing.assert_allclose(found.bins.count, expected.bins.count)
    np.testing.assert_allclose(found.bins.confidence, expected.bins.confidence, rtol=1e-12)
    np.testing.assert_allclose(found.classwise.hit, expected.classwise.hit, rtol=1e-12)


def test_pixels_of_an_image_are_one_cluster(images):
    z, y = (torch.tensor(part) for part in images)
    expected = evaluate(y.numpy(), z.numpy(), input="logits", ignore_index=-100)
    found = filled(z, y, step=2).compute()
    assert_same(found, expected)
    flat = filled(z.movedim(1, -1).reshape(-1, 3), y.reshape(-1)).compute()
    assert flat["ece"] == pytest.approx(found["ece"].item())
    for name in ("nll", "ece"):  # what independent rows would claim is much narrower
        width, narrow = ((one[f"{name}_high"] - one[f"{name}_low"]).item() for one in (found, flat))
        assert width > 1.3 * narrow


def test_sure_images_count_as_copies():
    z = torch.tensor([9.0, 0.0]).reshape(1, 2, 1).expand(6, 2, 5)
    y = torch.zeros(6, 5, dtype=torch.long)
    assert_same(filled(z, y, step=4).compute(), evaluate(y.numpy(), z.numpy(), input="logits"))
    one = filled(z[:1], y[:1]).compute()  # one image shows no spread between images
    assert one["accuracy"] == 1
    assert one["accuracy_low"] < 0.3
    assert math.isnan(one["nll_high"])


def test_rows_and_images_do_not_mix(images, rows):
    metric = CalibrationMetric(2)
    metric.update(torch.zeros(3, 2), torch.tensor([0, 1, 1]))
    metric.update(torch.zeros(3, 2, 4), torch.zeros(3, 4, dtype=torch.long))
    with pytest.raises(ValueError, match=r"Expected batches all of shape \(N, K\) or all of shape"):
        metric.compute()


def test_a_confidence_of_one_is_in_the_last_bin():
    metric = CalibrationMetric(3, bins=10, input="probs")
    metric.update(torch.eye(3), torch.tensor([0, 1, 2]))
    assert metric.compute()["ece"] == 0
    assert metric.evaluation().bins.count.tolist() == [0] * 9 + [3]
    metric.update(torch.eye(3)[:1] * 0.25 + 0.25, torch.tensor([0]))
    assert metric.compute()["ece"] == 0.125
    metric.reset()
    with pytest.warns(CalibrationWarning, match="1 of 1 rows give their label a probability below 1e-30"):
        assert metric(torch.eye(3)[:1], torch.tensor([1]))["ece"] == 1


def test_one_column_is_two_classes():
    metric = CalibrationMetric(2, input="probs")
    metric.update(torch.tensor([0.75, 0.25]), torch.tensor([1, 1]))
    assert metric.compute()["brier"] == 0.625  # (2 · .25² + 2 · .75²) / 2


def test_forward_returns_the_batch_and_adds_it(rows):
    z, y = (torch.tensor(part) for part in rows)
    metric = CalibrationMetric(4, classwise=True)
    for part in (slice(0, 100), slice(100, 500)):
        batch = evaluate(y[part].numpy(), z[part].numpy(), input="logits", ignore_index=-100)
        assert_same(metric(z[part], y[part]), batch)
    assert_same(metric.compute(), evaluate(y.numpy(), z.numpy(), input="logits", ignore_index=-100))
    metric.reset()
    assert not metric.sums.any()
    metric.update(z[:50], y[:50])
    assert metric.compute()["n"] == (y[:50] != -100).sum()


def test_batches_without_rows_add_nothing(rows):
    z, y = (torch.tensor(part) for part in rows)
    metric = CalibrationMetric(4)
    nothing = metric(z[:1], y[:1])  # its label is -100
    assert nothing["n"] == 0
    assert all(math.isnan(value) for name, value in nothing.items() if name != "n")
    metric.update(z[:0], y[:0])
    with pytest.raises(ValueError, match="Expected rows to judge, got none"):
        metric.evaluation()
    assert set(nothing) == set(metric(z[1:5], y[1:5]))
    assert metric.compute()["n"] == 4


def test_copies_checkpoints_and_merges(rows):
    z, y = (torch.tensor(part) for part in rows)
    expected = filled(z, y).compute()
    half = filled(z[:200], y[:200])
    half.persistent(True)
    restored = CalibrationMetric(4, classwise=True)
    restored.persistent(True)
    restored.load_state_dict(half.state_dict())
    merged = filled(z[200:], y[200:])
    merged.merge_state(half)
    assert merged.compute()["ece"] == pytest.approx(expected["ece"].item(), rel=1e-12)
    for twin in (half.clone(), pickle.loads(pickle.dumps(half)), restored):
        twin.update(z[200:], y[200:])
        for name, value in twin.compute().items():
            assert value.item() == pytest.approx(expected[name].item(), rel=1e-12)
    assert not CalibrationMetric(4).state_dict()


def test_collections(rows):
    z, y = (torch.tensor(part) for part in rows)
    z, y = z[y >= 0], y[y >= 0]
    top = torchmetrics.classification.MulticlassAccuracy(4, average="micro")
    both = torchmetrics.MetricCollection({"calibration": CalibrationMetric(4), "top": top}, prefix="val_")
    for part in (slice(0, 100), slice(100, None)):
        both.update(z[part], y[part])
    found = both.compute()
    assert found["val_accuracy"] == pytest.approx(found["val_top"].item())
    assert found["val_ece_low"] <= found["val_ece_high"]


class ElsewhereThanTheCPU:
    """What moving a tensor to a device without float64 returns."""

    dtype, device = torch.float32, torch.device("mps")


def test_the_state_stays_float64():
    metric = CalibrationMetric(2)
    metric.update(torch.zeros(1, 2), torch.tensor([1]))
    assert metric.half().set_dtype(torch.float16).sums.dtype == torch.float64
    metric._apply(lambda tensor: ElsewhereThanTheCPU())
    assert (metric.sums.device.type, metric.sums.dtype) == ("cpu", torch.float64)
    metric.sums[:] = 2.0**24
    metric.update(torch.zeros(1, 2), torch.tensor([1]))
    assert metric.sums[0] == 2**24 + 1


def rank_of_two(rank, results, z, y):
    part = slice(0, 350) if rank == 0 else slice(350, 500)
    metric = filled(z[part], y[part])
    again = [metric.compute(), metric.compute()]  # counting goes on with the rank's own rows
    bins = metric.evaluation().bins.count
    metric.sums[0] = 2.0**24 + rank
    torch.save([*again, bins.tolist(), metric.evaluation().n], f"{results}/{rank}")


@pytest.mark.slow
def test_two_ranks_equal_one_process(rows, tmp_path):
    z, y = (torch.tensor(part) for part in rows)
    run_two_ranks(rank_of_two, tmp_path, str(tmp_path), z, y)
    expected = evaluate(y.numpy(), z.numpy(), input="logits", ignore_index=-100)
    for rank in range(2):
        *found, bins, n = torch.load(tmp_path / str(rank))
        for one in found:
            assert_same(one, expected)
        assert bins == expected.bins.count.tolist()
        assert n == 2**25 + 1  # float32 would say 2**25


@pytest.mark.parametrize(
    ("preds", "target", "message"),
    [
        (torch.zeros(3, 4), torch.zeros(3).long(), "Expected scores of 2 classes, got 4"),
        (torch.zeros(3, 2), torch.zeros(2).long(), r"got \(3, 2\) and \(2,\)"),
        (torch.zeros(3, 2, 5), torch.zeros(3).long(), r"Expected y_prob of shape \(N, K, d1, …\)"),
        (torch.zeros(3, 2), torch.full((3,), 7), "Expected every label among the 2 classes"),
        (torch.tensor(1.0), torch.tensor(1), r"Expected scores of shape \(n, K\).+, got shape \(\)"),
        (torch.full((3, 2), torch.nan), torch.zeros(3).long(), "without NaN, got NaN in row 0"),
    ],
)
def test_wrong_batches_are_named(preds, target, message):
    with pytest.raises(ValueError, match=message):
        CalibrationMetric(2).update(preds, target)


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match='Expected input="logits" or input="probs"'):
        CalibrationMetric(2, input="scores")
    with pytest.raises(ValueError, match="Expected num_classes of at least 2, got 1"):
        CalibrationMetric(1)
    with pytest.raises(ValueError, match="Expected bins to be a whole number"):
        CalibrationMetric(2, bins=0)


def test_without_the_library_the_message_says_what_to_install(monkeypatch):
    for library in ["torchmetrics"]:
        monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, "focalcal.integrations.torchmetrics")
    message = "focalcal.integrations.torchmetrics needs torchmetrics: pip install torchmetrics"
    with pytest.raises(ModuleNotFoundError, match=message):
        importlib.import_module("focalcal.integrations.torchmetrics")
