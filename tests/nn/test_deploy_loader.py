"""A calibrator fitted to a model's outputs over a loader, of batches of any kind; nothing is left behind."""

import tempfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from cases import drawn
from focalcal import FocalTemperatureScaling, TemperatureScaling
from focalcal.nn import calibrate
from focalcal.nn._outputs import RowStore

LOGITS, LABELS = drawn(400, 3, 2.0, seed=0, gamma=1.0)
X, Y = torch.from_numpy(3 * LOGITS), torch.from_numpy(LABELS)
BATCHES = list(zip(X.split(90), Y.split(90)))


class Wrapped(torch.nn.Module):
    """A model whose logits are its inputs, returned as a function of them says."""

    def __init__(self, returned):
        super().__init__()
        self.returned = returned

    def forward(self, *args, **kwargs):
        return self.returned(*args, **kwargs)


def fitted_temperature():
    return TemperatureScaling().fit(X.numpy(), LABELS).temperature_


def test_the_calibrator_is_the_one_fitted_to_all_outputs():
    model = torch.nn.Linear(3, 3).double()
    torch.nn.init.eye_(model.weight)
    calibrated = calibrate(model, DataLoader(TensorDataset(X, Y), batch_size=64))
    with torch.no_grad():
        outputs = model(X).numpy()
    cal = FocalTemperatureScaling().fit(outputs, LABELS)
    assert calibrated.model is model
    assert calibrated.calibrator.n_fit_ == 400
    # batches of another size differ in the last bit of the linear layer
    assert calibrated.calibrator.temperature_ == pytest.approx(cal.temperature_, rel=1e-9)
    assert calibrated.calibrator.gamma_ == pytest.approx(cal.gamma_, rel=1e-9)
    np.testing.assert_allclose(calibrated(X).detach(), cal.transform(outputs), rtol=1e-8)


def same(z):
    return z


@pytest.mark.parametrize(
    ("returned", "batches", "unpack"),
    [
        (same, BATCHES, None),
        (same, [list(batch) for batch in BATCHES], None),
        (lambda z: (z, "hidden"), BATCHES, None),
        (lambda z: {"logits": z, "loss": None}, BATCHES, None),
        (lambda z: SimpleNamespace(logits=z), BATCHES, None),
        (lambda z, scale: scale * z, [((x, 1.0), y) for x, y in BATCHES], None),
        (lambda *, z: z, [({"z": x}, y) for x, y in BATCHES], None),
        (lambda z, mask: z, [{"z": x, "mask": None, "labels": y} for x, y in BATCHES], None),
        (same, [{"z": x, "target": y.tolist()} for x, y in BATCHES], lambda b: (b["z"], b["target"])),
    ],
    ids=["pair", "list", "tuple out", "dict out", "named out", "spread", "by name", "dict", "unpack"],
)
def test_kinds_of_batches_and_outputs(returned, batches, unpack):
    calibrated = calibrate(Wrapped(returned), batches, TemperatureScaling(), unpack=unpack)
    assert calibrated.calibrator.temperature_ == fitted_temperature()


def test_a_given_calibrator_is_copied_and_its_settings_hold():
    cal = TemperatureScaling(criterion="brier", input="probs")
    p = X.softmax(1)
    calibrated = calibrate(torch.nn.Identity(), [(p, Y)], cal)
    assert not hasattr(cal, "temperature_")
    named = calibrate(torch.nn.Identity(), BATCHES, TemperatureScaling(classes=["a", "b", "c"]))
    assert named.calibrator.temperature_ == fitted_temperature()
    assert named.calibrator.predict(X[:1].numpy()) == "abc"[X[0].argmax()]
    assert calibrated.calibrator.diagnostics_.criterion == "brier"
    true = cal.fit(p.numpy(), LABELS).transform(p.numpy())
    np.testing.assert_allclose(calibrated(p), true, rtol=1e-12)


@pytest.mark.parametrize("ignored", [-100, 255])
def test_pixels_and_what_is_ignored(ignored):
    images, labels = X[:240].reshape(4, 6, 10, 3).movedim(-1, 1), Y[:240].reshape(4, 6, 10).clone()
    labels[0, :3] = ignored
    labels[2] = ignored  # all of an image
    batches = list(zip(images.split(1), labels.split(1)))
    calibrated = calibrate(torch.nn.Identity(), batches, TemperatureScaling(), ignore_index=ignored)
    kept = (labels != ignored).reshape(-1).numpy()
    cal = TemperatureScaling().fit(X[:240].numpy()[kept], LABELS[:240][kept])
    assert calibrated.calibrator.temperature_ == cal.temperature_
    assert calibrated.calibrator.n_fit_ == 150
    assert calibrated(images).shape == images.shape
    np.testing.assert_allclose(calibrated(images)[1, :, 2, 3], cal.transform(X[None, 83].numpy())[0])


class Cached(torch.nn.Module):
    """Keeps a tensor of its first forward pass, as rotary embeddings do."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
        self.kept = None

    def forward(self, z):
        if self.kept is None:
            self.kept = torch.ones_like(z[:1])
        return z * self.weight * self.kept


def test_the_model_is_left_as_it_was():
    norm = torch.nn.BatchNorm1d(3).double()
    frozen = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(3).double())
    model = torch.nn.Sequential(norm, frozen, Cached()).train()
    frozen[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    calibrated = calibrate(model, BATCHES, TemperatureScaling())
    with pytest.raises(ValueError, match="NaN"):
        calibrate(model, [*BATCHES, (X * torch.nan, Y)])
    assert [module.training for module in model.modules()] == modes
    assert set(modes) == {True, False}
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.is_grad_enabled()
    # what the model kept of the loader is no obstacle to training on
    calibrated(X).sum().backward()
    assert model[2].weight.grad is not None


def test_dropout_is_off_while_outputs_are_collected():
    model = torch.nn.Sequential(torch.nn.Dropout(0.9))
    assert calibrate(model, BATCHES, TemperatureScaling()).calibrator.temperature_ == fitted_temperature()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precisions(dtype):
    narrow = X.to(dtype)
    calibrated = calibrate(torch.nn.Identity(), [(narrow, Y)])
    cal = FocalTemperatureScaling().fit(narrow.float().numpy(), LABELS)
    assert calibrated.calibrator.temperature_ == pytest.approx(cal.temperature_, rel=1e-9)
    assert calibrated(narrow).dtype == torch.float32


def test_inputs_are_sent_where_the_model_is():
    sent = []

    class Batch:
        def to(self, device):
            sent.append(device)
            return X

    calibrate(torch.nn.Identity(), [(Batch(), Y)])
    calibrate(torch.nn.Identity(), [({"input": Batch()}, Y)], device="cpu:0")
    assert sent == [torch.device("cpu"), "cpu:0"]


class Opened:
    """Counts the temporary files and remembers them."""

    def __init__(self, monkeypatch, folder):
        self.files = []
        make = tempfile.TemporaryFile
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        monkeypatch.setattr(
            tempfile,
            "TemporaryFile",
            lambda *args, **named: self.files.append(make(*args, **named)) or self.files[-1],
        )


def test_what_exceeds_the_memory_is_read_from_a_file_that_is_removed(monkeypatch, tmp_path):
    opened = Opened(monkeypatch, tmp_path)
    whole = calibrate(torch.nn.Identity(), BATCHES, memory=2 * X.nbytes)
    assert not opened.files
    spilled = calibrate(torch.nn.Identity(), BATCHES, memory=2 * X.nbytes - 1)
    assert spilled.calibrator.temperature_ == whole.calibrator.temperature_
    assert spilled.calibrator.gamma_ == whole.calibrator.gamma_
    with pytest.raises(ValueError, match="NaN"):
        calibrate(torch.nn.Identity(), [*BATCHES, (X * torch.nan, Y)], memory=1)
    assert len(opened.files) == 2
    assert all(file.closed for file in opened.files)
    assert not list(tmp_path.iterdir())


def test_rows_stay_in_their_order_and_precision():
    scores = np.arange(24, dtype=np.float16).reshape(8, 3)
    for memory in (1 << 20, 1, scores.nbytes):  # in memory, in a file from the first block, from the second
        with RowStore("logits", memory) as store:
            for rows in (slice(0, 3), slice(3, 3), slice(3, 8)):
                store.add(scores[rows], np.arange(8)[rows])
            found, labels = store.rows()
            assert isinstance(found, np.memmap) == (memory < 1 << 20)
            assert found.dtype == np.float16
            np.testing.assert_array_equal(found, scores)
            np.testing.assert_array_equal(labels, np.arange(8))
            del found


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], ValueError, "Expected rows to fit on, got none: the loader is empty"),
        ([(X, torch.full((400,), -100))], ValueError, "Expected rows to fit on, got none"),
        ([(X, Y[:-1])], ValueError, r"labels of shape \(N, d1, …\), got \(400, 3\) and \(399,\)"),
        ([(X, torch.nn.functional.one_hot(Y))], ValueError, r"got \(400, 3\) and \(400, 3\)"),
        ([(X[:, :1], Y)], ValueError, r"K >= 2, .* one logit z for two classes, torch.cat"),
        ([(X[0], Y[0])], ValueError, r"got \(3,\) and \(\)"),
        ([(X, Y.double())], ValueError, "labels that are integers, got torch.float64 and torch.float64"),
        ([(X.long(), Y)], ValueError, "Expected floating-point logits .* got torch.int64"),
        ([(X, Y + 1)], ValueError, r"Expected labels in 0\.\.2, .* got 1\.\.3"),
        ([(X, Y - 1)], ValueError, r"Expected labels in 0\.\.2, .* got -1\.\.1. Pass as ignore_index"),
        ([(X, None)], TypeError, "Expected labels as a tensor of class indices, got NoneType"),
        ([BATCHES[0], (X / 0, Y)], ValueError, "the model's output"),
        ([BATCHES[0], (X.index_fill(0, torch.tensor(7), torch.nan), Y)], ValueError, "got NaN in row 97"),
        (
            [BATCHES[0], (X[:, :2], Y.clamp(max=1))],
            ValueError,
            "Expected 3 classes in float64 in every batch, .* got 2 in",
        ),
        ([BATCHES[0], (X.float(), Y)], ValueError, "got 3 in float32"),
        ([(X, Y, Y)], TypeError, "got 3 entries. Pass unpack=lambda"),
        ([X], TypeError, r"Expected batches \(inputs, labels\), or dicts with 'labels', got Tensor"),
        ([{"z": X}], TypeError, "got dict. Pass unpack"),
    ],
)
def test_wrong_batches(batches, error, message):
    with pytest.raises(error, match=message):
        calibrate(torch.nn.Identity(), batches)


def test_wrong_calls():
    with pytest.raises(TypeError, match=r"Expected model as a torch\.nn\.Module, got function"):
        calibrate(same, BATCHES)
    with pytest.raises(TypeError, match="Expected a calibrator of focalcal, got str"):
        calibrate(torch.nn.Identity(), BATCHES, "temperature")
    for names in (["a"], list("abcdefghijkl")):
        with pytest.raises(ValueError, match="Expected classes to name each of the"):
            calibrate(torch.nn.Identity(), BATCHES, TemperatureScaling(classes=names))
    with pytest.raises(ValueError, match="Expected memory to be a whole number >= 1, got 0"):
        calibrate(torch.nn.Identity(), BATCHES, memory=0)
    with pytest.raises(TypeError, match=r"Expected the model to return logits .* got SimpleNamespace"):
        calibrate(Wrapped(lambda z: SimpleNamespace(out=z)), BATCHES)
