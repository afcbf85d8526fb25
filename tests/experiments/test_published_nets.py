"""The published networks: known numbers of parameters, the released weights' names, images of every side."""

import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from focalcal.experiments.published_nets import bottleneck_resnet, densenet121, wide_resnet  # noqa: E402

SIZES = {
    # counted by hand: stem, stages, linear layer; as of the implementations in common use
    "resnet50": (lambda **own: bottleneck_resnet(50, **own), 23_520_842),
    "densenet121": (densenet121, 6_956_298),
    "wide_resnet": (lambda **own: wide_resnet(26, 10, **own), None),
    "resnet110": (lambda **own: bottleneck_resnet(110, **own), None),
}


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", SIZES)
def test_parameters(name):
    make, size = SIZES[name]
    with torch.device("meta"):
        model = make()
        assert size is None or parameters(model) == size
        assert make(classes=200, channels=1)(torch.zeros(2, 1, 28, 28)).shape == (2, 200)


def test_depth_counts_layers():
    def layers(model):
        held = [m for name, m in model.named_modules() if "shortcut" not in name and "downsample" not in name]
        return sum(isinstance(m, torch.nn.Conv2d | torch.nn.Linear) for m in held)

    with torch.device("meta"):
        assert layers(bottleneck_resnet(50)) == 50
        assert layers(bottleneck_resnet(110)) == 110
        assert layers(wide_resnet()) == 26
        assert layers(densenet121()) == 121
        # a ResNet-26 ten times as wide: its 3 × 3 convolutions have a hundred times the weights
        wide = wide_resnet(26, 10).layer2[1].conv1.weight.numel()
        assert wide == 100 * wide_resnet(26, 1).layer2[1].conv1.weight.numel() == 320 * 320 * 9


def test_the_released_weights_names():
    with torch.device("meta"):
        assert {"conv1.weight", "layer2.0.shortcut.1.weight", "layer4.2.bn3.bias", "fc.bias"} <= {
            *bottleneck_resnet(50).state_dict()
        }
        assert {"layer1.0.downsample.0.weight", "layer3.3.conv2.weight"} <= {*wide_resnet().state_dict()}
        assert {"dense3.23.conv2.weight", "trans2.conv.weight", "linear.bias"} <= {
            *densenet121().state_dict()
        }
        assert not any("layer1.1.shortcut" in name for name in bottleneck_resnet(50).state_dict())


def test_a_small_wide_one_by_hand():
    torch.manual_seed(0)
    model = wide_resnet(8, 1, classes=3).eval()
    x = torch.randn(2, 3, 8, 8)
    found = torch.relu(model.bn1(model.conv1(x)))
    for stage in (model.layer1, model.layer2, model.layer3):
        (block,) = stage
        kept = found if block.downsample is None else block.downsample(found)
        inner = torch.relu(block.bn1(block.conv1(found)))
        found = torch.relu(block.bn2(block.conv2(inner)) + kept)
    torch.testing.assert_close(model(x), model.fc(found.mean((2, 3))))
    assert found.shape == (2, 64, 2, 2)
    assert model.layer1[0].downsample is None


def test_wrong_depths():
    with pytest.raises(ValueError, match="Expected depth 50 or 110, got 34"):
        bottleneck_resnet(34)
    with pytest.raises(ValueError, match=r"Expected depth 6 n \+ 2, such as 26, got 28"):
        wide_resnet(28)


def test_the_published_network_for_tiny_imagenet():
    net = bottleneck_resnet(50, classes=200, side=64)
    assert net.fc.in_features == 8192  # 2 × 2 averages of 2,048 channels
    assert net(torch.zeros(2, 3, 64, 64)).shape == (2, 200)
    assert float(net.conv1.weight.detach().std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
    assert bottleneck_resnet(50, classes=200).fc.in_features == 2048
