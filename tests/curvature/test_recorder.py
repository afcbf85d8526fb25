"""The recorder in a plain loop, in Lightning and in the Trainer of transformers."""

import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from focalcal.curvature import CurvatureRecorder, LossSurface, logistic_hessian  # noqa: E402


def data(rows=12):
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(rows, 3, generator=generator), torch.arange(rows) % 2)


def gradient_norm(model, loss, loader, power=1):
    return {
        "gradient": {"norm": float(LossSurface(model, loss, loader).gradient().norm()) ** power, "kind": "l2"}
    }


def trained(recorder=None, steps=5):
    torch.manual_seed(0)
    net, loss = (
        nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)),
        nn.CrossEntropyLoss(),
    )
    optimizer, batches = torch.optim.SGD(net.parameters(), 0.1), DataLoader(data(), 4, shuffle=True)
    done = 0
    while done < steps:
        for x, y in batches:
            optimizer.zero_grad()
            loss(net(x), y).backward()
            optimizer.step()
            done += 1
            if recorder is not None:
                recorder.step(net)
    return net


def test_training_goes_on_as_if_nothing_was_measured():
    loader = DataLoader(data(), 6, shuffle=True)  # draws random numbers of its own
    recorder = CurvatureRecorder(nn.CrossEntropyLoss(), loader, every=2, measure=gradient_norm, power=2)
    watched, alone = trained(recorder), trained()
    for name, value in alone.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name])
    assert [row["step"] for row in recorder.history] == [2, 4, 6]
    assert list(recorder.history[0]) == ["step", "gradient/norm", "gradient/kind"]
    truth = gradient_norm(alone, nn.CrossEntropyLoss(), loader, 2)["gradient"]["norm"]
    assert recorder.history[-1]["gradient/norm"] == pytest.approx(truth, rel=1e-6)


class Found:
    def to_dict(self):
        return {"eigenvalues": [torch.tensor(3.0), 1.0], "density": [0.1] * 11, "trace": 4.0}


def test_its_state_goes_on():
    recorder = CurvatureRecorder(None, [], every=3, measure=lambda *_: Found())
    assert [recorder.step(nn.Linear(1, 1)) for _ in range(2)] == [None, None]
    resumed = CurvatureRecorder(None, [], every=3, measure=lambda *_: Found())
    resumed.load_state_dict(recorder.state_dict())
    row = {"step": 3, "eigenvalues/0": 3.0, "eigenvalues/1": 1.0, "density": [0.1] * 11, "trace": 4.0}
    assert resumed.step(nn.Linear(1, 1)) == row
    assert resumed.history == [row]


def test_by_default_everything_is_measured():
    net, loss, (x, y) = nn.Linear(3, 2).double(), nn.CrossEntropyLoss(), data().tensors
    row = CurvatureRecorder(loss, [(x.double(), y)]).step(net)
    truth = logistic_hessian(loss, x, y, net.weight, net.bias)
    assert row["training/trace/value"] == pytest.approx(float(truth.trace()), rel=0.1)
    assert row["training/top/values/0"] == pytest.approx(float(torch.linalg.eigvalsh(truth).max()), rel=1e-3)


def test_wrong_settings():
    with pytest.raises(ValueError, match="Expected every to be a whole number"):
        CurvatureRecorder(None, [], every=0)
    with pytest.raises(TypeError, match="Expected measure to return a dict or what has to_dict, got float"):
        CurvatureRecorder(None, [], measure=lambda *_: 1.0).step(nn.Linear(1, 1))


@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
def test_the_callback_of_lightning(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch", reason="pip install lightning")
    from focalcal.integrations.lightning import CurvatureCallback

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.loss = nn.Linear(3, 2), nn.CrossEntropyLoss()

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            return self.loss(self(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def trainer(callback, epochs):
        return lightning.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            default_root_dir=tmp_path,
            callbacks=[callback],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    def callback():
        loader = DataLoader(data(), 6)
        return CurvatureCallback(
            CurvatureRecorder(nn.CrossEntropyLoss(), loader, every=2, measure=gradient_norm)
        )

    first, batches = callback(), DataLoader(data(), 3)
    run = trainer(first, 1)
    run.fit(Model(), batches)
    history = first.recorder.history
    assert [row["step"] for row in history] == [2, 4]
    assert run.callback_metrics["curvature/gradient/norm"].item() == pytest.approx(
        history[-1]["gradient/norm"]
    )
    run.save_checkpoint(tmp_path / "end.ckpt")
    second = callback()
    trainer(second, 2).fit(Model(), batches, ckpt_path=tmp_path / "end.ckpt", weights_only=True)
    assert [row["step"] for row in second.recorder.history] == [2, 4, 6, 8]
    assert second.recorder.history[:2] == history


def test_the_callback_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers", reason="pip install transformers")
    from focalcal.integrations.transformers import curvature_callback

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(3, 2)

        def forward(self, inputs, labels=None):
            logits = self.net(inputs)
            found = {"logits": logits}
            return found if labels is None else {"loss": nn.functional.cross_entropy(logits, labels), **found}

    rows = [{"inputs": x, "labels": y} for x, y in data()]
    recorder = CurvatureRecorder(nn.CrossEntropyLoss(), DataLoader(rows, 6), every=2, measure=gradient_norm)
    options = {"per_device_train_batch_size": 3, "max_steps": 4, "use_cpu": True, "report_to": []}
    args = transformers.TrainingArguments(tmp_path, save_strategy="no", disable_tqdm=True, **options)
    transformers.Trainer(Model(), args, train_dataset=rows, callbacks=[curvature_callback(recorder)]).train()
    assert [row["step"] for row in recorder.history] == [2, 4]
    assert recorder.history[1]["gradient/norm"] > 0
