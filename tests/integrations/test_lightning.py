"""The callback through the real Trainer, against `evaluate` and fits by hand."""

import importlib
import sys
import types

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")
lightning = pytest.importorskip("lightning.pytorch", reason="pip install lightning")

from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from focalcal import (  # noqa: E402
    CalibrationWarning,
    FocalMatrixScaling,
    FocalTemperatureScaling,
    TemperatureScaling,
    evaluate,
)
from focalcal.integrations.lightning import CalibrationCallback, _on_first_rank  # noqa: E402
from focalcal.nn import AdaFocalLoss  # noqa: E402
from ranks import run_two_ranks  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning"),
]


def model_of(package):
    """A LightningModule of a package, whose logits are its inputs times one weight."""

    class Scaled(package.LightningModule):
        def __init__(self, scale=1.0, rate=0.0):
            super().__init__()
            self.scale, self.rate = nn.Parameter(torch.tensor(scale)), rate
            self.loss = AdaFocalLoss(bins=5)

        def forward(self, x):
            return x * self.scale

        def training_step(self, batch, batch_idx):
            return self.loss(self(batch[0]), batch[1])

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            return {"logits": self(batch[0]), "labels": batch[1]}

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.rate)

    return Scaled


def trainer_of(package, folder, *callbacks, epochs=1, **options):
    return package.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        default_root_dir=folder,
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"enable_checkpointing": False, **options},
    )


def loader(z, y, size=64):
    return DataLoader(TensorDataset(torch.as_tensor(z), torch.as_tensor(y)), batch_size=size)


def crossfitted(z, y, calibrator):
    """Log-probabilities of each row from a calibrator fitted on the rows of the other parity."""
    odd = np.arange(len(y)) % 2
    mapped = np.empty_like(z)
    for half in (0, 1):
        mapped[odd == half] = calibrator.fit(z[odd != half], y[odd != half]).transform(z[odd == half])
    return mapped


def assert_same(found, expected, names=("nll", "brier", "accuracy", "ece")):
    for name in names:
        for end in ("value", "low", "high"):
            ends = getattr(found[name], end), getattr(expected[name], end)
            assert ends[0] == pytest.approx(ends[1], rel=1e-9, abs=1e-12)


def test_logs_raw_and_cross_fitted_numbers(rows, tmp_path):
    z, y = rows
    callback = CalibrationCallback()
    trainer = trainer_of(lightning, tmp_path, callback)
    trainer.fit(model_of(lightning)(), loader(z[:64], np.zeros(64, int)), loader(z, y))
    z, y = z[y >= 0], y[y >= 0]
    raw = evaluate(y, z, input="logits")
    calibrated = evaluate(y, crossfitted(z, y, FocalTemperatureScaling()), input="logits")
    assert_same(callback.evaluations_["raw"], raw)
    assert_same(callback.evaluations_["calibrated"], calibrated)
    whole = FocalTemperatureScaling().fit(z, y)
    assert callback.calibrator_.temperature_ == pytest.approx(whole.temperature_, rel=1e-9)
    assert whole.temperature_ > 1.3
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert logged == pytest.approx(
        {
            "val_nll": raw["nll"].value,
            "val_ece": raw["ece"].value,
            "val_nll_calibrated": calibrated["nll"].value,
            "val_ece_calibrated": calibrated["ece"].value,
            "temperature": whole.temperature_,
            "gamma": whole.gamma_,
        },
        rel=1e-6,
    )
    own = evaluate(y, whole.transform(z), input="logits")["nll"].value
    assert own < calibrated["nll"].value < raw["nll"].value  # judged on its own rows it looks better


def test_a_calibrator_of_tables_logs_its_numbers(rows, tmp_path):
    z, y = rows
    callback = CalibrationCallback(FocalMatrixScaling(penalty=10.0))
    trainer = trainer_of(lightning, tmp_path, callback)
    trainer.fit(model_of(lightning)(), loader(z[:64], np.zeros(64, int)), loader(z, y))
    logged = {name for name in trainer.callback_metrics if not name.startswith("val_")}
    assert logged == {
        *("temperature", "gamma", "penalty"),
        *(f"{of}_share" for of in ("uniform", "prior", "vector", "matrix")),
    }
    assert callback.calibrator_.matrix_.shape == (z.shape[1], z.shape[1])


@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")
def test_the_checkpoint_brings_the_calibrator_back(rows, tmp_path):
    z, y = rows
    data, first = (loader(z[:64], np.zeros(64, int)), loader(z, y)), CalibrationCallback(TemperatureScaling())
    trainer_of(lightning, tmp_path, first, enable_checkpointing=True).fit(model_of(lightning)(), *data)
    (path,) = tmp_path.rglob("*.ckpt")
    again = CalibrationCallback(TemperatureScaling())
    trainer = trainer_of(lightning, tmp_path / "again", again, enable_checkpointing=True)
    trainer.fit(model_of(lightning)(), *data, ckpt_path=path)
    assert again.evaluations_ == {}  # its one epoch is over: nothing was fitted anew
    assert again.calibrator_.to_dict() == first.calibrator_.to_dict()
    saved = torch.load(path, weights_only=True)["callbacks"]["CalibrationCallback"]
    third = CalibrationCallback()
    third.load_state_dict(saved)
    np.testing.assert_array_equal(third.calibrator_.transform(z), first.calibrator_.transform(z))
    assert CalibrationCallback().state_dict() == {}


def test_the_loss_is_updated_once_an_epoch(rows, tmp_path):
    z, y = rows
    callback = CalibrationCallback(TemperatureScaling(), loss="loss")
    model = model_of(lightning)(rate=0.05)
    trainer = trainer_of(lightning, tmp_path, callback, epochs=3)  # a sanity check comes first
    trainer.fit(model, loader(z[:64], y[:64]), loader(z, y))
    assert model.scale != 1
    assert model.loss.updates == 3
    model.train()
    model.loss(model(torch.tensor(z)), torch.tensor(y)).backward()  # its buffers take part in training
    last = AdaFocalLoss(bins=5)
    last.update(torch.tensor(z) * model.scale.detach(), torch.tensor(y))
    torch.testing.assert_close(model.loss.edges, last.edges)
    trainer.validate(model, loader(z, y), verbose=False)
    assert model.loss.updates == 3  # not training
    assert callback.evaluations_["raw"].n == (y >= 0).sum()


def test_one_of_several_dataloaders_and_logits_by_function(rows, tmp_path):
    z, y = rows
    seen = []

    def logits(outputs, batch):
        seen.append(len(batch[1]))
        return outputs["logits"] / 2, batch[1]

    callback = CalibrationCallback(TemperatureScaling(), logits=logits, dataloader=1)
    trainer = trainer_of(lightning, tmp_path, callback)
    trainer.validate(model_of(lightning)(), [loader(z[:100], y[:100]), loader(z, y)], verbose=False)
    assert sum(seen) == len(y)
    assert_same(callback.evaluations_["raw"], evaluate(y, z / 2, input="logits", ignore_index=-100))
    assert "val_ece_calibrated" in trainer.callback_metrics  # without the dataloader's number


def test_classes_name_the_columns(rows, tmp_path):
    z, y = rows
    n_classes = z.shape[1]
    plain = CalibrationCallback()
    trainer_of(lightning, tmp_path, plain).validate(model_of(lightning)(), loader(z, y), verbose=False)
    for classes in ([f"class {k}" for k in range(n_classes)], list(range(n_classes))[::-1]):
        callback = CalibrationCallback(FocalTemperatureScaling(classes=classes))
        trainer_of(lightning, tmp_path, callback).validate(model_of(lightning)(), loader(z, y), verbose=False)
        assert callback.calibrator_.temperature_ == plain.calibrator_.temperature_
        assert callback.calibrator_.classes_.tolist() == classes
    few = CalibrationCallback(FocalTemperatureScaling(classes=["a"]))
    with pytest.raises(ValueError, match="Expected classes to name each of the"):
        trainer_of(lightning, tmp_path, few).validate(model_of(lightning)(), loader(z, y), verbose=False)


def test_images_are_halved_as_wholes(images, tmp_path):
    z, y = images
    callback = CalibrationCallback(TemperatureScaling())
    trainer_of(lightning, tmp_path, callback).validate(model_of(lightning)(), loader(z, y, 2), verbose=False)
    assert_same(callback.evaluations_["raw"], evaluate(y, z, input="logits", ignore_index=-100))
    kept = np.arange(9) != 4  # image 4 has no labels
    z, y, half = z[kept], y[kept], np.arange(8) % 2
    table, labels = np.moveaxis(z, 1, -1), y
    mapped = np.empty_like(table)
    for parity in (0, 1):
        other = labels[half != parity].ravel()
        cal = TemperatureScaling().fit(table[half != parity].reshape(-1, 3)[other >= 0], other[other >= 0])
        mapped[half == parity] = cal.transform(table[half == parity].reshape(-1, 3)).reshape(4, 4, 5, 3)
    expected = evaluate(y, np.moveaxis(mapped, -1, 1), input="logits", ignore_index=-100)
    assert_same(callback.evaluations_["calibrated"], expected)


def test_mixed_precision(rows, tmp_path):
    z, y = rows

    class Layer(model_of(lightning)):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4, bias=False)
            nn.init.eye_(self.layer.weight)

        def forward(self, x):
            return self.layer(x)

    callback = CalibrationCallback(TemperatureScaling())
    trainer = trainer_of(lightning, tmp_path, callback, precision="bf16-mixed")
    trainer.validate(Layer(), loader(z.astype(np.float32), y), verbose=False)
    rounded = torch.tensor(z, dtype=torch.bfloat16).float().numpy()
    assert_same(callback.evaluations_["raw"], evaluate(y, rounded, input="logits", ignore_index=-100))


def test_the_older_package_takes_it_too(rows, tmp_path):
    package = pytest.importorskip("pytorch_lightning", reason="the name of lightning before 2.0")
    z, y = rows
    callback = CalibrationCallback(TemperatureScaling(), loss="loss")
    model = model_of(package)()
    trainer = trainer_of(package, tmp_path, callback, enable_checkpointing=True)
    trainer.fit(model, loader(z[:64], np.zeros(64, int)), loader(z, y))
    assert model.loss.updates == 1
    (path,) = tmp_path.rglob("*.ckpt")
    state = torch.load(path, weights_only=True)["callbacks"]["CalibrationCallback"]
    assert state["calibrator"]["parameters"]["temperature"] == callback.calibrator_.temperature_
    assert trainer.callback_metrics["val_ece"] > 0


def rank_of_two(rank, results, z, y):
    module = types.SimpleNamespace(device="cpu", loss=AdaFocalLoss(bins=5), log_dict=lambda *a, **k: None)
    trainer = types.SimpleNamespace(sanity_checking=False, state=types.SimpleNamespace(fn="fit"))
    callback = CalibrationCallback(TemperatureScaling(), loss="loss")
    callback.on_validation_epoch_start(trainer, module)
    for part in [slice(0, 200), slice(200, 500)] if rank else []:  # the first rank has no rows
        batch = {"logits": torch.tensor(z[part]), "labels": torch.tensor(y[part])}
        callback.on_validation_batch_end(trainer, module, batch, None, 0)
    callback.on_validation_epoch_end(trainer, module)

    def broken(batches):
        raise ValueError("nothing to fit")

    try:
        _on_first_rank(broken, [])
    except ValueError as error:
        said = str(error)
    numbers = {name: e["nll"].value for name, e in callback.evaluations_.items()}
    torch.save([numbers, callback.state_dict(), module.loss.gamma, said], f"{results}/{rank}")


@pytest.mark.slow
def test_the_first_rank_fits_for_all(rows, tmp_path):
    z, y = rows
    run_two_ranks(rank_of_two, tmp_path, str(tmp_path), z, y)
    kept = y >= 0
    whole, loss = TemperatureScaling().fit(z[kept], y[kept]), AdaFocalLoss(bins=5)
    loss.update(torch.tensor(z), torch.tensor(y))
    for rank in range(2):
        numbers, state, gamma, said = torch.load(tmp_path / str(rank))
        assert numbers["raw"] == pytest.approx(evaluate(y[kept], z[kept], input="logits")["nll"].value)
        assert numbers["calibrated"] < numbers["raw"]
        assert state["calibrator"]["parameters"]["temperature"] == pytest.approx(whole.temperature_)
        torch.testing.assert_close(gamma, loss.gamma)
        assert said == "nothing to fit"


def test_wrong_use_is_named(rows, tmp_path):
    z, y = rows
    with pytest.raises(ValueError, match="Expected a calibrator with input=\"logits\", got 'probs'"):
        CalibrationCallback(TemperatureScaling(input="probs"))
    with pytest.raises(ValueError, match="Expected bins to be a whole number"):
        CalibrationCallback(bins=0)
    model = model_of(lightning)()
    for callback, message in (
        (
            CalibrationCallback(loss="forward"),
            "Expected a loss with update in the attribute 'forward', got method",
        ),
        (CalibrationCallback(dataloader=7), "at least 2 rows .or images. of validation dataloader 7"),
    ):
        with pytest.raises(ValueError, match=message):
            trainer_of(lightning, tmp_path, callback).validate(model, loader(z, y), verbose=False)
    model.validation_step = lambda batch, batch_idx: {"loss": torch.tensor(0.0), "labels": batch[1]}
    with pytest.raises(ValueError, match=r'"labels" \(or "target"\), got labels, loss'):
        trainer_of(lightning, tmp_path, CalibrationCallback()).validate(model, loader(z, y), verbose=False)


def test_the_whole_fit_says_what_is_wrong_with_it(tmp_path):
    z, y = np.eye(3)[np.arange(30) % 3] * 5, np.arange(30) % 3
    with pytest.warns(CalibrationWarning, match="perfectly separable") as said:
        trainer_of(lightning, tmp_path, CalibrationCallback()).validate(
            model_of(lightning)(), loader(z, y), verbose=False
        )
    assert len([one for one in said if "separable" in str(one.message)]) == 1


def test_the_package_in_use_is_the_base(monkeypatch):
    name = "focalcal.integrations.lightning"
    here = importlib.import_module(name)
    assert here.CalibrationCallback.__mro__[1] is lightning.Callback
    older = types.ModuleType("pytorch_lightning")
    older.Callback = type("Callback", (), {})
    monkeypatch.setitem(sys.modules, "pytorch_lightning", older)
    monkeypatch.delitem(sys.modules, "lightning.pytorch")
    assert here._callback() is older.Callback


def test_without_the_library_the_message_says_what_to_install(monkeypatch):
    for library in ["lightning", "lightning.pytorch", "pytorch_lightning"]:
        monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, "focalcal.integrations.lightning")
    message = "focalcal.integrations.lightning needs lightning: pip install lightning"
    with pytest.raises(ModuleNotFoundError, match=message):
        importlib.import_module("focalcal.integrations.lightning")
