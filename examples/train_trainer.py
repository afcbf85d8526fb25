"""The Trainer of Hugging Face transformers: a focal loss, and calibration metrics after every epoch.

    python examples/train_trainer.py [--data digits]

Any module that returns {"logits": …} will do, as models of transformers do.
"""

import tempfile

import torch
from images import Images, arguments, load, report, small_network
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from focalcal.integrations.transformers import CalibrationMetrics, loss_for_trainer
from focalcal.nn import FocalLoss, calibrate


class Classifier(nn.Module):
    """A network in the form that the Trainer calls."""

    def __init__(self, images: Images) -> None:
        super().__init__()
        self.network = small_network(images)

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> dict:
        return {"logits": self.network(pixel_values)}


class Progress(TrainerCallback):
    """Prints what the metrics say after each epoch."""

    def on_evaluate(self, args, state, control, metrics, **kwargs) -> None:
        nll, ece, low, high = (metrics[f"eval_{name}"] for name in ("nll", "ece", "ece_low", "ece_high"))
        print(f"epoch {state.epoch:.0f}: validation NLL {nll:.3f}, ECE {ece:.3f} [{low:.3f}, {high:.3f}]")


def rows(x: torch.Tensor, y: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    return [{"pixel_values": image, "labels": label} for image, label in zip(x, y, strict=True)]


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.manual_seed(options.seed)
    images = load(options.data, options.folder, options.rows)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            num_train_epochs=options.epochs,
            learning_rate=2e-3,
            per_device_train_batch_size=64,
            per_device_eval_batch_size=1000,
            eval_strategy="epoch",
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
            seed=options.seed,
        )
        trainer = Trainer(
            Classifier(images),
            settings,
            train_dataset=rows(images.x_train, images.y_train),
            eval_dataset=rows(images.x_val, images.y_val),
            compute_loss_func=loss_for_trainer(FocalLoss(gamma=2.0)),
            compute_metrics=CalibrationMetrics(),
            callbacks=[Progress()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        calibrated = calibrate(trainer.model, trainer.get_eval_dataloader())
        logits = trainer.predict(rows(images.x_test, images.y_test)).predictions
    print(f"\n{calibrated.calibrator}")
    report(images.y_test, logits, calibrated.calibrator.transform(logits))


if __name__ == "__main__":
    main()
