"""The model card, read back by huggingface_hub."""

import math
from dataclasses import replace

import numpy as np
import pytest

from cases import drawn
from focalcal import evaluate

NAMES = {
    "model_name": "my-org/a: model",
    "task_type": "image-classification",
    "dataset_type": "cifar10",
    "dataset_name": 'CIFAR-10 "clean" — 🙂',
}


@pytest.fixture(scope="module")
def evaluation():
    z, y = drawn(400, 3, 2.0, seed=0)
    return evaluate(y, 2 * z, input="logits", metrics="all")


def test_the_hub_reads_every_metric(evaluation):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub comes with transformers")
    text = evaluation.to_model_card(**NAMES, dataset_split="test")
    card = hub.ModelCard(text)
    assert card.data.model_name == NAMES["model_name"]
    found = {result.metric_type: result for result in card.data.eval_results}
    assert list(found) == list(evaluation)
    for name, e in evaluation.items():
        one = found[name]
        assert one.metric_value == float(e.value)
        assert one.metric_args == {
            "low": e.low,
            "high": e.high,
            "level": 0.95,
            "n": 400,
            "method": e.method,
        }
        assert (one.task_type, one.dataset_type, one.dataset_split) == (
            "image-classification",
            "cifar10",
            "test",
        )
        assert one.dataset_name == NAMES["dataset_name"]
    assert found["nll"].metric_name == "NLL (nats)"
    again = hub.ModelCard(str(card))
    assert again.data.to_dict() == card.data.to_dict()
    assert again.text == card.text == text.partition("\n---\n")[2]


def test_it_joins_a_card_that_is_there(evaluation, tmp_path):
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub comes with transformers")
    card = hub.ModelCard("---\nlicense: apache-2.0\n---\n# A model\n")
    ours = hub.ModelCard(evaluation.to_model_card(**NAMES))
    card.data.model_name, card.data.eval_results = ours.data.model_name, ours.data.eval_results
    card.text += ours.text
    card.save(tmp_path / "README.md")
    read = hub.ModelCard.load(tmp_path / "README.md")
    assert read.data.license == "apache-2.0"
    assert len(read.data.eval_results) == len(evaluation)
    assert "# A model\n\n## Calibration" in read.text
    assert "model-index" in hub.repocard.metadata_load(tmp_path / "README.md")


def test_the_table_is_of_every_metric(evaluation):
    section = evaluation.to_model_card(**NAMES).partition("\n---\n")[2]
    table = [line.replace("\\|", "").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    assert [len(row) for row in table] == [6] * (2 + len(evaluation))
    assert table[0][:4] == ["| metric", "value", "95% interval", "rows"]
    e = evaluation["ece"]
    row = next(row for row in table if row[0] == "| ECE")
    assert row[1:4] == [f"{e.value:.4f}", f"{e.low:.4f} to {e.high:.4f}", "400"]
    assert row[4].endswith("over 15 equal-width bins")
    assert row[5] == "inverted test |"


def test_numbers_that_yaml_could_take_for_texts(evaluation):
    yaml = pytest.importorskip("yaml", reason="PyYAML comes with transformers")
    values = {"nll": 1e-05, "brier": 1e22, "ece": 0.0, "accuracy": math.inf}
    changed = {k: replace(evaluation[k], value=np.float64(v), low=math.nan) for k, v in values.items()}
    text = replace(evaluation, metrics=changed).to_model_card(**NAMES)
    (result,) = yaml.safe_load(text.split("---\n")[1])["model-index"][0]["results"]
    read = {metric["type"]: metric for metric in result["metrics"]}
    assert {name: metric["value"] for name, metric in read.items()} == {
        "nll": 1e-05,
        "brier": 1e22,
        "ece": 0.0,
    }
    assert "low" not in read["nll"]["args"]
    assert "| accuracy | inf | nan to" in text


@pytest.mark.parametrize("wrong", ["", " ", "two\nlines", "a\x00b", None, 3])
def test_names_are_one_line(evaluation, wrong):
    with pytest.raises(ValueError, match="Expected dataset_name as one line of text, got"):
        evaluation.to_model_card(**NAMES | {"dataset_name": wrong})
