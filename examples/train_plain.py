"""A plain PyTorch loop: one changed line for the loss, one call to calibrate.

    python examples/train_plain.py [--loss adafocal] [--data digits]

AdaFocal's γ follows the validation calibration, bin by bin: `update` once per epoch.
"""

import torch
from images import arguments, load, logits_of, report, small_network
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from focalcal.nn import AdaFocalLoss, FLSDLoss, FocalLoss, ProperFocalLoss, calibrate

LOSSES = {
    "ce": nn.CrossEntropyLoss,
    "focal": FocalLoss,
    "flsd": FLSDLoss,
    "proper": ProperFocalLoss,
    "adafocal": AdaFocalLoss,
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--loss", choices=LOSSES, default="adafocal")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    images = load(options.data, options.folder, options.rows)
    model, loss = small_network(images), LOSSES[options.loss]()  # the changed line
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    batches = DataLoader(TensorDataset(images.x_train, images.y_train), batch_size=64, shuffle=True)

    for epoch in range(options.epochs):
        model.train()
        for x, y in batches:
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
        validation = logits_of(model, images.x_val)
        if isinstance(loss, AdaFocalLoss):
            loss.update(validation, images.y_val)
            print(f"epoch {epoch + 1}: gamma by bin", *(f"{gamma:.2f}" for gamma in loss.gamma))
        else:
            accuracy = (validation.argmax(1) == images.y_val).float().mean()
            print(f"epoch {epoch + 1}: validation accuracy {accuracy:.3f}")

    held_out = DataLoader(TensorDataset(images.x_val, images.y_val), batch_size=1000)
    calibrated = calibrate(model, held_out)
    print(f"\n{calibrated.calibrator}")
    report(
        images.y_test, logits_of(model, images.x_test).numpy(), logits_of(calibrated, images.x_test).numpy()
    )


if __name__ == "__main__":
    main()
