"""Lightning: a focal loss, and a callback that judges and calibrates after every validation epoch.

    python examples/train_lightning.py [--data digits] [--onnx calibrator.onnx]

The callback judges each half of the validation rows with a calibrator of the other half; the `calibrator_`
that it leaves is fitted on all validation rows of the last epoch.
"""

import logging
import warnings

import lightning
import torch
from images import Images, arguments, load, logits_of, report, small_network
from torch.utils.data import DataLoader, TensorDataset

import focalcal
from focalcal.integrations.lightning import CalibrationCallback
from focalcal.nn import FocalLoss


class Classifier(lightning.LightningModule):
    """An ordinary LightningModule: the loss, and what `validation_step` returns, are for calibration."""

    def __init__(self, images: Images) -> None:
        super().__init__()
        self.network, self.loss = small_network(images), FocalLoss(gamma=2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.loss(self(batch[0]), batch[1])

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        return {"logits": self(batch[0]), "labels": batch[1]}  # what the callback reads

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


class Progress(lightning.Callback):
    """Prints what the callback logged."""

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        raw, calibrated = (trainer.callback_metrics[name] for name in ("val_nll", "val_nll_calibrated"))
        print(f"epoch {trainer.current_epoch + 1}: validation NLL {raw:.3f}, calibrated {calibrated:.3f}")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--onnx", help="write the calibrator here, for runtimes without Python")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*(not have many workers|LeafSpec.* is deprecated)")
    torch.manual_seed(options.seed)
    images = load(options.data, options.folder, options.rows)
    model, callback = Classifier(images), CalibrationCallback()

    trainer = lightning.Trainer(
        max_epochs=options.epochs,
        accelerator="cpu",
        callbacks=[callback, Progress()],
        logger=False,
        enable_checkpointing=False,  # with it, the calibrator is in every checkpoint
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    train = DataLoader(TensorDataset(images.x_train, images.y_train), batch_size=64, shuffle=True)
    trainer.fit(model, train, DataLoader(TensorDataset(images.x_val, images.y_val), batch_size=1000))

    print(f"\n{callback.calibrator_}")
    if options.onnx:
        focalcal.to_onnx(callback.calibrator_, options.onnx)
    logits = logits_of(model, images.x_test).numpy()
    report(images.y_test, logits, callback.calibrator_.transform(logits))


if __name__ == "__main__":
    main()
