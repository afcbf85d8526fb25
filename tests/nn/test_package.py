"""The package's names, its one dependency, and torch.compile."""

import shutil
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from focalcal import nn as fnn  # noqa: E402

NAMES = [
    "AURCLoss",
    "AdaFocalLoss",
    "BinaryLoss",
    "BrierLoss",
    "CalFocalLoss",
    "CalibratedModel",
    "DualFocalLoss",
    "FLSD53",
    "FLSDLoss",
    "FocalCalibrationMap",
    "FocalLoss",
    "FocalTemperature",
    "InverseFocalLoss",
    "MMCELoss",
    "ProperFocalLoss",
    "SteppedGamma",
    "adafocal_loss",
    "aurc_loss",
    "binary_dual_focal_loss",
    "binary_focal_loss",
    "binary_inverse_focal_loss",
    "binary_loss",
    "binary_proper_focal_loss",
    "brier_loss",
    "calibrate",
    "dual_focal_loss",
    "flsd_loss",
    "focal_loss",
    "focal_map",
    "inverse_focal_loss",
    "inverse_focal_map",
    "mmce_loss",
    "mmce_penalty",
    "proper_focal_loss",
    "to_module",
]


def test_names():
    assert sorted(fnn.__all__) == sorted(NAMES)
    assert all(getattr(fnn, name).__doc__ for name in NAMES)


def test_without_torch_the_message_says_what_to_install():
    code = "import sys; sys.modules['torch'] = None\nimport focalcal.nn"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode
    assert "focalcal.nn needs torch: pip install 'focalcal[torch]'" in ran.stderr


def test_the_compiler_is_not_loaded_before_it_is_used():
    code = "import sys, focalcal.nn, focalcal.curvature\nassert 'torch._dynamo' not in sys.modules"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not ran.returncode, ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss",
    [
        fnn.FocalLoss(2.0),
        fnn.FLSDLoss(),
        fnn.DualFocalLoss(),
        fnn.AdaFocalLoss(),
        fnn.FocalLoss(1.0, label_smoothing=0.1),
    ],
    ids=["focal", "flsd", "dual", "adafocal", "smoothed"],
)
def test_compiles_as_one_graph(loss):
    torch._dynamo.reset()
    # the graph is traced, backward pass included, and run without a C++ compiler
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    z, y = torch.randn(16, 5), torch.randint(5, (16,))
    gradients = []
    for function in (loss, compiled):
        leaf = z.clone().requires_grad_()
        value = function(leaf, y)
        value.backward()
        gradients.append((value.detach(), leaf.grad))
    torch.testing.assert_close(*gradients)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's default compiler needs g++")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_the_default_compiler():
    torch._dynamo.reset()
    loss, z, y = fnn.FocalLoss(2.0), torch.randn(16, 5, requires_grad=True), torch.randint(5, (16,))
    found, expected = torch.compile(loss, fullgraph=True)(z, y), loss(z, y)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, z)[0] for value in (found, expected)))


# torch's own tracer looks at .grad of the tensor that crosses the break
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.slow
def test_the_proper_loss_compiles_with_a_break_around_its_solver():
    torch._dynamo.reset()
    loss = fnn.ProperFocalLoss(2.0)
    z, y = torch.randn(16, 5, requires_grad=True), torch.randint(5, (16,))
    compiled = torch.compile(loss, backend="aot_eager")
    expected, found = loss(z, y), compiled(z, y)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, z)[0] for value in (found, expected)))
