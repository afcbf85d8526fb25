"""The networks: parameters counted by hand, shapes, the ResNet's shortcuts."""

import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")
from focalcal import experiments  # noqa: E402
from focalcal.experiments import cifar_resnet, mlp, resnet20, small_cnn  # noqa: E402


def size(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (mlp(64, 10), 64 * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10),
        (mlp(4, 3, hidden=()), 15),
        (small_cnn(3, 10, 32), 448 + 4640 + 18496 + 1024 * 10 + 10),
        # table 6 of He et al.: .27, .46, .66, .85 and 1.7 million
        (resnet20(), 269_722),
        (resnet20(classes=100), 269_722 + 90 * 65),
        (resnet20(channels=1), 269_722 - 2 * 9 * 16),
        (cifar_resnet(32), 464_154),
        (cifar_resnet(44), 658_586),
        (cifar_resnet(56), 853_018),
        (cifar_resnet(110), 1_727_962),
    ],
)
def test_number_of_parameters(model, expected):
    assert size(model) == expected


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (mlp(48, 5, hidden=[7]), (2, 3, 4, 4)),
        (small_cnn(3, 5, 16), (2, 3, 16, 16)),
        (small_cnn(1, 5, 28), (2, 1, 28, 28)),
        (small_cnn(1, 5, 15), (2, 1, 15, 15)),
        (resnet20(5), (2, 3, 32, 32)),
        (resnet20(5, channels=1), (2, 1, 28, 28)),
    ],
)
def test_logits_of_images(model, shape):
    assert model.eval()(torch.randn(shape)).shape == (2, 5)


def test_shortcut_keeps_every_second_pixel_between_new_channels_of_zeros():
    block = resnet20().layer2[0].eval()
    torch.nn.init.zeros_(block.bn2.weight)  # leaves the shortcut alone
    x = torch.rand(1, 16, 8, 8)
    y = block(x)
    assert y.shape == (1, 32, 4, 4)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


def test_resnet_has_the_names_of_published_weights():
    names = list(resnet20().state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer1.0.conv1.weight", "linear.bias"} <= set(names)
    assert (
        len([name for name in names if name.startswith("layer3.")]) == 3 * 12
    )  # 2 convolutions, 2 × 5 of norms


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mlp(0, 2), "Expected inputs to be a whole number >= 1, got 0"),
        (lambda: mlp(4, 2, hidden=(0,)), "Expected hidden widths to be a whole number >= 1"),
        (lambda: mlp(4, 0), "Expected classes to be a whole number"),
        (lambda: small_cnn(3, 10, 7), "Expected side >= 8, as it is halved three times, got 7. Use mlp"),
        (lambda: cifar_resnet(18), r"Expected depth 6 n \+ 2, such as 20, .* got 18"),
        (lambda: cifar_resnet(2), "Expected depth 6 n"),
        (lambda: resnet20(channels=0), "Expected channels"),
    ],
)
def test_wrong_sizes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_without_torch_the_import_says_what_to_install():
    code = "import sys; sys.modules['torch'] = None; import focalcal.experiments"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "focalcal.experiments needs torch: pip install 'focalcal[torch]'" in done.stderr


def test_public_names():
    nets = {"cifar_resnet", "mlp", "resnet20", "small_cnn"}
    assert set(experiments.NETS) == nets
    assert set(experiments.__all__) == nets | {
        "load_weights",
        "measure_checkpoint",
        "named_model",
        "open_inputs",
    }
