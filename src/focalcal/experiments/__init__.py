"""Networks and runs of the papers' experiments; needs PyTorch."""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "focalcal.experiments needs torch: pip install 'focalcal[torch]'", name="torch"
    ) from error

from focalcal.experiments.checkpoints import load_weights, named_model
from focalcal.experiments.folders import open_inputs
from focalcal.experiments.measuring import measure_checkpoint
from focalcal.experiments.nets import cifar_resnet, mlp, resnet20, small_cnn

#: Networks that a name on the command line means.
NETS = ("cifar_resnet", "mlp", "resnet20", "small_cnn")

__all__ = [
    "cifar_resnet",
    "load_weights",
    "measure_checkpoint",
    "mlp",
    "named_model",
    "open_inputs",
    "resnet20",
    "small_cnn",
]
