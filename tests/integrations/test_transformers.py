"""The loss and the metrics through the real Trainer."""

import math
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")
transformers = pytest.importorskip("transformers", reason="pip install transformers accelerate")
pytest.importorskip("accelerate", reason="the Trainer of transformers needs accelerate")

from torch import nn  # noqa: E402
from transformers import Trainer, TrainerCallback, TrainingArguments  # noqa: E402

from focalcal import evaluate  # noqa: E402
from focalcal.integrations.transformers import CalibrationMetrics, loss_for_trainer  # noqa: E402
from focalcal.nn import AdaFocalLoss, FocalLoss, MMCELoss  # noqa: E402

WORDS, CLASSES, LENGTH = 11, 3, 5


class Tagger(nn.Module):
    """A label for each token, by its word alone."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(WORDS, CLASSES)
        with torch.no_grad():
            self.table.weight.copy_(torch.sin(torch.arange(WORDS * CLASSES)).reshape(WORDS, CLASSES) * 3)

    def forward(self, input_ids, labels=None):
        return {"logits": self.table(input_ids)}


class Sentences(torch.utils.data.Dataset):
    """22 sentences, whose numbers of labels differ much."""

    def __init__(self, n=22, ignored=True):
        rng = np.random.default_rng(0)
        self.words = torch.tensor(rng.integers(WORDS, size=(n, LENGTH)))
        self.labels = torch.tensor(rng.integers(CLASSES, size=(n, LENGTH)))
        if ignored:
            self.labels[torch.arange(LENGTH) > torch.tensor(rng.integers(LENGTH, size=(n, 1)))] = -100

    def __len__(self):
        return len(self.words)

    def __getitem__(self, i):
        return {"input_ids": self.words[i], "labels": self.labels[i]}


class Record(TrainerCallback):
    """The weights after each step."""

    def __init__(self):
        self.weights = []

    def on_step_end(self, args, state, control, model, **kwargs):
        self.weights.append(torch.cat([p.detach().flatten().clone() for p in model.parameters()]))


def arguments(folder, **options):
    return TrainingArguments(
        output_dir=str(folder),
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        optim="sgd",
        learning_rate=0.5,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        num_train_epochs=2,
        **options,
    )


def trained(folder, model, data, loss, batch, steps, **options):
    record = Record()
    args = arguments(folder, per_device_train_batch_size=batch, gradient_accumulation_steps=steps, **options)
    trainer = Trainer(model, args, train_dataset=data, compute_loss_func=loss, callbacks=[record])
    trainer.train()
    return record.weights


@pytest.mark.parametrize(
    "loss", [FocalLoss(2.0), nn.CrossEntropyLoss(torch.tensor([0.5, 1.0, 2.0]))], ids=["focal", "weighted"]
)
def test_accumulation_changes_nothing(loss, tmp_path):
    compute_loss = loss_for_trainer(loss)
    whole, parts = (
        trained(tmp_path, Tagger(), Sentences(), compute_loss, *sizes) for sizes in ((8, 1), (2, 4))
    )
    assert len(whole) == len(parts) == 6  # 22 rows are batches of 8, 8 and 6, twice
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-6)
    assert (whole[0] - whole[-1]).abs().max() > 0.1
    # what a mean over each small batch would do
    naive = trained(
        tmp_path, Tagger(), Sentences(), lambda o, y, num_items_in_batch: compute_loss(o, y) / 4, 2, 4
    )
    assert (naive[-1] - whole[-1]).abs().max() > 0.01


def test_one_step_is_that_of_plain_torch(tmp_path):
    data, loss = Sentences(8), FocalLoss(2.0)
    first, *_ = trained(tmp_path, Tagger(), data, loss_for_trainer(loss), 3, 3)
    model = Tagger()
    loss(model(data.words)["logits"].movedim(-1, 1), data.labels).backward()
    torch.testing.assert_close(first, (model.table.weight - 0.5 * model.table.weight.grad).detach().flatten())


def bert():
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        max_position_embeddings=LENGTH, num_labels=CLASSES, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def llama():
    config = transformers.LlamaConfig(
        vocab_size=WORDS, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        max_position_embeddings=LENGTH, pad_token_id=0,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


class Texts(Sentences):
    """One label for each sentence."""

    def __getitem__(self, i):
        return {"input_ids": self.words[i], "labels": self.words[i, 0] % CLASSES}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "data", "options"),
    [(bert, Texts(), {}), (llama, Sentences(), {"shift": True})],
    ids=["sequence-classifier", "causal-language-model"],
)
def test_cross_entropy_is_the_loss_of_the_models_themselves(make, data, options, tmp_path):
    compute_loss = loss_for_trainer(nn.CrossEntropyLoss(), **options)
    runs = []
    for loss, sizes in ((None, (8, 1)), (compute_loss, (8, 1)), (compute_loss, (2, 4))):
        torch.manual_seed(0)
        runs.append(trained(tmp_path, make(), data, loss, *sizes))
    for own, whole, parts in zip(*runs, strict=True):
        torch.testing.assert_close(whole, own, rtol=0, atol=1e-5)
        torch.testing.assert_close(parts, own, rtol=0, atol=1e-5)


def test_shapes_of_logits():
    loss = nn.CrossEntropyLoss()
    z, y = torch.randn(4, CLASSES, 3, 2), torch.randint(CLASSES, (4, 3, 2))
    y[0] = -100
    expected = loss(z, y)
    pixels = loss_for_trainer(loss, class_axis=1)
    torch.testing.assert_close(pixels({"logits": z}, y), expected)  # no count: the mean over its labels
    torch.testing.assert_close(pixels({"logits": z}, y, torch.tensor(36)), expected / 2)
    tokens = loss_for_trainer(loss)
    torch.testing.assert_close(tokens({"logits": z.movedim(1, -1)}, y), expected)
    assert tokens({"logits": z.movedim(1, -1)}, y * 0 - 100) == 0
    shifted = loss_for_trainer(loss, shift=True)
    z, y = torch.randn(2, 5, CLASSES), torch.randint(CLASSES, (2, 5))
    torch.testing.assert_close(
        shifted({"logits": z}, y), loss(z[:, :-1].reshape(-1, CLASSES), y[:, 1:].reshape(-1))
    )


def test_a_loss_that_adapts_goes_on_doing_so():
    loss = AdaFocalLoss(bins=1)
    compute_loss = loss_for_trainer(loss)
    z, y = torch.randn(20, CLASSES) * 5, torch.randint(CLASSES, (20,))
    before = compute_loss({"logits": z}, y)
    loss.update(z, y)
    torch.testing.assert_close(compute_loss({"logits": z}, y), loss(z, y))
    assert loss.reduction == "mean"
    assert compute_loss({"logits": z}, y) != before


@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        ((torch.zeros(2, 3),), torch.zeros(2).long(), 'Expected outputs with "logits", got tuple'),
        ({"loss": 0, "scores": 1}, torch.zeros(2).long(), "got loss, scores"),
        ({"logits": torch.zeros(2, 3)}, None, 'Expected class indices as "labels" in each batch, got none'),
        ({"logits": torch.zeros(2, 3)}, torch.zeros(2, 3), "got torch.float32"),
        ({"logits": torch.zeros(2, 3)}, torch.zeros(2, 3).long(), r"labels of shape \(2,\), got \(2, 3\)"),
    ],
)
def test_wrong_batches_are_named(outputs, labels, message):
    with pytest.raises(ValueError, match=message):
        loss_for_trainer(FocalLoss())(outputs, labels)


def test_wrong_losses_are_named():
    with pytest.raises(ValueError, match="Expected a loss with the attribute reduction, got function"):
        loss_for_trainer(lambda logits, labels: 0)
    with pytest.raises(ValueError, match="Expected ignore_index=-100, which the Trainer counts by, got 0"):
        loss_for_trainer(FocalLoss(ignore_index=0))
    with pytest.raises(ValueError, match="The penalty is one number a batch"):
        loss_for_trainer(MMCELoss())({"logits": torch.zeros(2, 3)}, torch.tensor([0, 1]))


def judged(model, data, **options):
    """What `evaluate` says of all tokens together."""
    with torch.no_grad():
        logits = model(data.words)["logits"].movedim(-1, 1)
    return evaluate(data.labels.numpy(), logits.numpy(), input="logits", ignore_index=-100, **options)


def assert_same(metrics, expected, names=("nll", "brier", "accuracy", "ece", "classwise_ece")):
    for name in names:
        e = expected[name]
        found = [metrics[f"eval_{name}{end}"] for end in ("", "_low", "_high")]
        np.testing.assert_allclose(found, [e.value, e.low, e.high], rtol=1e-12, atol=1e-12)
    assert metrics["eval_n"] == expected.n


@pytest.mark.parametrize("streamed", [True, False])
def test_metrics_are_those_of_evaluate(streamed, tmp_path):
    metrics = CalibrationMetrics(classwise=True, level=0.9)
    args = arguments(
        tmp_path, per_device_eval_batch_size=4, batch_eval_metrics=streamed, eval_strategy="epoch"
    )
    trainer = Trainer(
        Tagger(),
        args,
        train_dataset=Sentences(),
        eval_dataset=Sentences(30),
        compute_metrics=metrics,
        compute_loss_func=loss_for_trainer(FocalLoss(1.0)),
    )
    for data in (Sentences(30), Sentences(30), Sentences(9)):  # sums begin anew each time
        assert_same(trainer.evaluate(data), judged(trainer.model, data, level=0.9))
    assert metrics.evaluation_.bins.count.sum() == (Sentences(9).labels >= 0).sum()
    trainer.train()
    last = [entry for entry in trainer.state.log_history if "eval_nll" in entry]
    assert len(last) == 2
    assert_same(last[-1], judged(trainer.model, Sentences(30), level=0.9))
    found = trainer.predict(Sentences(9), metric_key_prefix="eval").metrics
    assert_same(found, judged(trainer.model, Sentences(9), level=0.9))


def test_metrics_of_other_shapes():
    rng = np.random.default_rng(1)
    z, y = rng.normal(size=(6, 7, CLASSES)), rng.integers(CLASSES, size=(6, 7))
    shifted = CalibrationMetrics(shift=True)((z, y))
    expected = evaluate(y[:, 1:], np.moveaxis(z, -1, 1)[..., :-1], input="logits")
    assert shifted["ece"] == pytest.approx(expected["ece"].value, rel=1e-12)
    pixels = CalibrationMetrics(class_axis=1)((np.moveaxis(z, -1, 1), y))
    assert pixels == pytest.approx(CalibrationMetrics()((torch.tensor(z), torch.tensor(y))))
    binary = CalibrationMetrics(input="probs")((np.array([0.25, 0.75]), np.array([1, 1])))
    assert binary["brier"] == 0.625


def test_metrics_without_rows_and_after_a_break():
    metrics = CalibrationMetrics()
    assert math.isnan(metrics((np.zeros((2, 3)), np.array([-100, -100])))["ece"])
    assert metrics.evaluation_ is None
    assert metrics((np.zeros((2, 3)), np.array([0, 1])), compute_result=False) == {}
    metrics.reset()
    assert metrics((np.zeros((4, 2)), np.array([0, 1, 0, 1])))["n"] == 4
    with pytest.raises(ValueError, match="Expected predictions as one array, got tuple"):
        metrics(((np.zeros((4, 2)), np.zeros(4)), np.array([0, 1, 0, 1])))
    with pytest.raises(ValueError, match='Expected input="logits" or input="probs"'):
        CalibrationMetrics(input="p")


def test_neither_library_is_imported():
    code = "import sys, focalcal.integrations.transformers as here\n"
    code += "here.CalibrationMetrics(), sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
