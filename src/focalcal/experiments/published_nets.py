"""The networks of Mukhoti et al. (arXiv 2002.09437), with the parameters' names of their released weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from focalcal._settings import check_count


def _conv(before: int, after: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, size, stride, padding=size // 2, bias=False)


def _matched(before: int, after: int, stride: int) -> nn.Sequential:
    """Return a shortcut: nothing where the shape stays, else a convolution of single pixels."""
    if stride == 1 and before == after:
        return nn.Sequential()
    return nn.Sequential(_conv(before, after, 1, stride), nn.BatchNorm2d(after))


class _Bottleneck(nn.Module):
    """Narrow, convolve, widen fourfold, beside a shortcut."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(before, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        self.shortcut = _matched(before, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        found = F.relu(self.bn1(self.conv1(x)))
        found = F.relu(self.bn2(self.conv2(found)))
        return F.relu(self.bn3(self.conv3(found)) + self.shortcut(x))


class _WideBlock(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(before, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3), nn.BatchNorm2d(width)
        same = stride == 1 and before == width
        self.downsample = None if same else _matched(before, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.downsample is None else self.downsample(x)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + kept)


class _Stages(nn.Module):
    """A convolution, stages of blocks that halve the image but for the first, and a linear layer."""

    def __init__(
        self,
        block: type[_Bottleneck | _WideBlock],
        first: int,
        widths: list[int],
        counts: list[int],
        growth: int,
        classes: int,
        channels: int,
        pooled: int = 1,
    ) -> None:
        super().__init__()
        self.pooled = pooled
        self.conv1, self.bn1 = _conv(channels, first, 3), nn.BatchNorm2d(first)
        before, self.names = first, [f"layer{i + 1}" for i in range(len(widths))]
        for i, (width, count) in enumerate(zip(widths, counts, strict=True)):
            blocks: list[nn.Module] = []
            for j in range(count):
                blocks.append(block(before, width, 2 if i and not j else 1))
                before = growth * width
            self.add_module(self.names[i], nn.Sequential(*blocks))
        self.fc = nn.Linear(before * pooled**2, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for name in self.names:
            x = getattr(self, name)(x)
        return self.fc(F.adaptive_avg_pool2d(x, self.pooled).flatten(1))  # type: ignore[no-any-return]


def bottleneck_resnet(depth: int, classes: int = 10, channels: int = 3, *, side: int = 32) -> nn.Module:
    """Return ResNet-50 or ResNet-110 for small images.

    Parameters
    ----------
    depth : {50, 110}
        The published ResNet-110 has bottlenecks, 3, 4, 26 and 3 of them, unlike that of `cifar_resnet`.
    classes, channels : int
        Logits that are returned, and channels of an image.
    side : int
        Of the images. From 64 on, the published network for TinyImageNet: averages of four parts of the image
        go into the linear layer, and first weights are He's for what leaves a layer.

    Returns
    -------
    nn.Module
        From images (n, channels, height, width), sides at least 8, to logits (n, classes). The shortcuts of
        the released weights for TinyImageNet are named "downsample".

    Raises
    ------
    ValueError
        For another depth, or a number below 1.

    References
    ----------
    He et al. 2016, arXiv 1512.03385; Mukhoti et al. 2020, arXiv 2002.09437.
    """
    counts = {50: [3, 4, 6, 3], 110: [3, 4, 26, 3]}
    if depth not in counts:
        raise ValueError(f"Expected depth 50 or 110, got {depth}. For others see cifar_resnet.")
    widths = [64, 128, 256, 512]
    shape = check_count("classes", classes), check_count("channels", channels)
    tiny = check_count("side", side) >= 64
    made = _Stages(_Bottleneck, 64, widths, counts[depth], 4, *shape, pooled=2 if tiny else 1)
    for module in made.modules() if tiny else ():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return made


def wide_resnet(depth: int = 26, width: int = 10, classes: int = 10, channels: int = 3) -> nn.Module:
    """Return a wide ResNet for small images, by default Wide-ResNet-26-10.

    Parameters
    ----------
    depth : int
        6 n + 2 layers.
    width : int
        Times as many channels as a ResNet's 16, 32 and 64.
    classes, channels : int
        Logits that are returned, and channels of an image.

    Returns
    -------
    nn.Module
        From images (n, channels, height, width) to logits (n, classes).

    Raises
    ------
    ValueError
        For another depth, or a number below 1.

    Notes
    -----
    Rectified after the sum, as the published runs' is, not before the convolutions as in the paper.

    References
    ----------
    Zagoruyko and Komodakis 2016, arXiv 1605.07146; Mukhoti et al. 2020, arXiv 2002.09437.
    """
    if check_count("depth", depth) < 8 or (depth - 2) % 6:
        raise ValueError(f"Expected depth 6 n + 2, such as 26, got {depth}.")
    widths = [size * check_count("width", width) for size in (16, 32, 64)]
    counts = [(depth - 2) // 6] * 3
    shape = check_count("classes", classes), check_count("channels", channels)
    found = _Stages(_WideBlock, 16, widths, counts, 1, *shape)
    for module in found.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return found


class _DenseLayer(nn.Module):
    """What 32 more channels are made of: all that came before."""

    def __init__(self, before: int, growth: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(before), _conv(before, 4 * growth, 1)
        self.bn2, self.conv2 = nn.BatchNorm2d(4 * growth), _conv(4 * growth, growth, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = self.conv1(F.relu(self.bn1(x)))
        return torch.cat([self.conv2(F.relu(self.bn2(found))), x], 1)


class _Transition(nn.Module):
    """Half of the channels, a quarter of the pixels."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(before), _conv(before, before // 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), 2)


class _DenseNet(nn.Module):
    def __init__(self, counts: list[int], growth: int, classes: int, channels: int) -> None:
        super().__init__()
        width = 2 * growth
        self.conv1, self.names = _conv(channels, width, 3), []
        for i, count in enumerate(counts, 1):
            sizes = range(width, width + growth * count, growth)
            self.add_module(f"dense{i}", nn.Sequential(*(_DenseLayer(size, growth) for size in sizes)))
            width += growth * count
            self.names.append(f"dense{i}")
            if i < len(counts):
                self.add_module(f"trans{i}", _Transition(width))
                self.names.append(f"trans{i}")
                width //= 2
        self.bn, self.linear = nn.BatchNorm2d(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for name in self.names:
            x = getattr(self, name)(x)
        return self.linear(F.relu(self.bn(x)).mean((2, 3)))  # type: ignore[no-any-return]


def densenet121(classes: int = 10, channels: int = 3) -> nn.Module:
    """Return DenseNet-121 for small images: blocks of 6, 12, 24 and 16 layers that add 32 channels each.

    Parameters
    ----------
    classes, channels : int
        Logits that are returned, and channels of an image.

    Returns
    -------
    nn.Module
        From images (n, channels, height, width), sides at least 8, to logits (n, classes).

    Raises
    ------
    ValueError
        For a number below 1.

    References
    ----------
    Huang et al. 2017, arXiv 1608.06993; Mukhoti et al. 2020, arXiv 2002.09437.
    """
    shape = check_count("classes", classes), check_count("channels", channels)
    return _DenseNet([6, 12, 24, 16], 32, *shape)
