"""Evaluations in MLflow, TensorBoard and Weights & Biases, all offline, read back from what they wrote."""

import importlib.util
import math
import sys
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest

from cases import drawn
from focalcal import evaluate
from focalcal.integrations import tracking
from focalcal.integrations.tracking import flatten, log_mlflow, log_tensorboard, log_wandb


@pytest.fixture(scope="module")
def evaluation():
    z, y = drawn(300, 3, 2.0, seed=0)
    return evaluate(y, 2 * z, input="logits")


def test_flatten(evaluation):
    found = flatten(evaluation, "test/")
    e = evaluation["ece"]
    assert [found[f"test/ece{end}"] for end in ("", "_low", "_high")] == [e.value, e.low, e.high]
    assert found["test/n"] == 300
    assert len(found) == 3 * len(evaluation) + 1
    assert {type(value) for value in found.values()} == {float}


def test_what_is_not_finite_is_left_out(evaluation):
    broken = replace(evaluation, metrics={"nll": replace(evaluation["nll"], value=math.inf, low=math.nan)})
    assert flatten(broken) == {"nll_high": evaluation["nll"].high, "n": 300.0}


@pytest.mark.slow  # its import alone takes seconds
def test_mlflow(evaluation, tmp_path, monkeypatch):
    open_before = plt.get_fignums()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the small edition has no database
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = pytest.importorskip("mlflow", reason="mlflow is an optional library")
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    with mlflow.start_run() as run:
        log_mlflow(evaluation, step=3, prefix="val/")
        log_mlflow(evaluation)
    client = mlflow.MlflowClient()
    want = flatten(evaluation, "val/") | flatten(evaluation)
    assert client.get_run(run.info.run_id).data.metrics == want
    assert client.get_metric_history(run.info.run_id, "val/ece")[0].step == 3
    assert [one.path for one in client.list_artifacts(run.info.run_id, "val")] == ["val/reliability_3.png"]
    (file,) = tmp_path.rglob("reliability.png")
    assert file.read_bytes().startswith(b"\x89PNG")
    assert plt.get_fignums() == open_before


def test_tensorboard(evaluation, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is an optional library")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        log_tensorboard(writer, evaluation, 7, prefix="val/")
    events = EventAccumulator(str(tmp_path)).Reload()
    for name, value in flatten(evaluation, "val/").items():
        (event,) = events.Scalars(name)
        assert (event.step, event.value) == (7, pytest.approx(value, rel=1e-6))  # it keeps float32
    (image,) = events.Images("val/reliability")
    assert image.encoded_image_string.startswith(b"\x89PNG")


def records(log):
    """Records of a file of W&B: LevelDB's log format, in blocks of 32 KiB, after a header of 7 bytes."""
    at, record = 7, b""
    while at + 7 <= len(log):
        left = 32768 - at % 32768
        if left < 7:  # the end of a block is left empty
            at += left
            continue
        size, kind = int.from_bytes(log[at + 4 : at + 6], "little"), log[at + 6]
        record += log[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # the whole of a record, or its last part
            yield record
            record = b""


@pytest.mark.slow  # a service starts
def test_wandb(evaluation, tmp_path, monkeypatch):
    for place in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{place}_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    wandb = pytest.importorskip("wandb", reason="wandb is an optional library")
    from wandb.proto.wandb_internal_pb2 import Record

    settings = wandb.Settings(console="off", silent=True)
    run = wandb.init(mode="offline", dir=tmp_path, project="tests", settings=settings)
    log_wandb(run, evaluation, step=5, prefix="val/")
    run.finish()
    wandb.teardown()
    (file,) = tmp_path.rglob("*.wandb")
    found = {}
    for record in map(Record.FromString, records(file.read_bytes())):
        found |= {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
    for name, value in flatten(evaluation, "val/").items():
        assert float(found[name]) == value
    assert found["_step"] == "5"
    assert found["val/reliability._type"] == '"image-file"'
    (image,) = tmp_path.rglob("media/images/val/*.png")
    assert image.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_numbers_are_logged(evaluation, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    class Writer:
        scalars = {}

        def add_scalar(self, name, value, step):
            self.scalars[name] = value

    log_tensorboard(Writer(), evaluation)
    assert Writer.scalars == flatten(evaluation)


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_that_is_missing(evaluation, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=f"tracking needs {name}: pip install {name}"):
        log_mlflow(evaluation) if name == "mlflow" else log_wandb(None, evaluation)
    assert tracking._tracker("math") is math
