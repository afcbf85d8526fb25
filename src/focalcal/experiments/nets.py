"""Small networks that return logits, each made by one function."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from focalcal._settings import check_count


def mlp(inputs: int, classes: int, hidden: Sequence[int] = (128, 128)) -> nn.Sequential:
    """Return a multilayer perceptron with ReLU; inputs of any shape are flattened.

    Parameters
    ----------
    inputs : int
        Numbers in one input.
    classes : int
        Logits that are returned.
    hidden : sequence of int
        Widths of the hidden layers; none makes it logistic regression.

    Returns
    -------
    nn.Sequential
        From (n, …) to logits (n, classes).

    Raises
    ------
    ValueError
        For a width below 1.

    Examples
    --------
    2 · 3 + 3 parameters, and then 3 · 2 + 2:

    >>> sum(p.numel() for p in mlp(2, 2, hidden=(3,)).parameters())
    17
    """
    widths = [check_count("inputs", inputs), *(check_count("hidden widths", width) for width in hidden)]
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], check_count("classes", classes)))


def small_cnn(channels: int, classes: int, side: int) -> nn.Sequential:
    """Return three 3 × 3 convolutions of 16, 32 and 64 channels with ReLU, and a linear layer.

    Parameters
    ----------
    channels : int
        Of an image: 3 for colours.
    classes : int
        Logits that are returned.
    side : int
        Height and width of an image in pixels, at least 8; each convolution halves it, the first by its
        stride, the others by max-pooling.

    Returns
    -------
    nn.Sequential
        From images (n, channels, side, side) to logits (n, classes). Piecewise linear in each layer's
        parameters: there is no BatchNorm.

    Raises
    ------
    ValueError
        For a number below 1, or a side below 8.

    Examples
    --------
    160 + 4,640 + 18,496 parameters of convolutions, and 64 · 2 + 2:

    >>> sum(p.numel() for p in small_cnn(1, 2, 8).parameters())
    23426
    """
    if check_count("side", side) < 8:
        raise ValueError(f"Expected side >= 8, as it is halved three times, got {side}. Use mlp, or resize.")
    shape = check_count("channels", channels), check_count("classes", classes)
    return nn.Sequential(
        *(nn.Conv2d(shape[0], 16, 3, stride=2, padding=1), nn.ReLU()),
        # the largest of the rectified is the rectified largest, at a quarter of the work
        *(nn.Conv2d(16, 32, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(64 * ((side + 1) // 2 // 2 // 2) ** 2, shape[1])),
    )


class _Block(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut without parameters (option A)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride, self.more = stride, after - before

    def forward(self, x: Tensor) -> Tensor:
        found = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        kept = x[:, :, :: self.stride, :: self.stride]
        return F.relu(found + F.pad(kept, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2)))


class _CifarResNet(nn.Module):
    def __init__(self, blocks: int, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        for i, (before, after) in enumerate([(16, 16), (16, 32), (32, 64)]):
            first = _Block(before, after, stride=2 if i else 1)
            rest = (_Block(after, after, stride=1) for _ in range(blocks - 1))
            self.add_module(f"layer{i + 1}", nn.Sequential(first, *rest))
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for name in ("layer1", "layer2", "layer3"):
            x = getattr(self, name)(x)
        return self.linear(x.mean((2, 3)))  # type: ignore[no-any-return]


def cifar_resnet(depth: int, classes: int = 10, channels: int = 3) -> nn.Module:
    """Return the ResNet for images of 32 × 32 pixels of He et al., section 4.2.

    Parameters
    ----------
    depth : int
        Layers with weights, 6 n + 2: 20, 32, 44, 56 or 110.
    classes : int
        Logits that are returned.
    channels : int
        Of an image: 3 for colours.

    Returns
    -------
    nn.Module
        From images (n, channels, height, width) to logits (n, classes).

    Raises
    ------
    ValueError
        For a depth that is not 6 n + 2, or a number below 1.

    Notes
    -----
    Shortcuts are option A: where the shape changes every second pixel is kept, and the new channels are zero,
    half of them before and half after. So there are 0.27 million parameters at depth 20, as in the paper. The
    parameters have the names that the reimplementation by Y. Idelbayev (akamaster) gave them.

    References
    ----------
    He et al. 2016, "Deep residual learning for image recognition", arXiv 1512.03385.

    Examples
    --------
    >>> sum(p.numel() for p in cifar_resnet(20).parameters())
    269722
    """
    if check_count("depth", depth) < 8 or (depth - 2) % 6:
        raise ValueError(f"Expected depth 6 n + 2, such as 20, 32, 44, 56 or 110, got {depth}.")
    return _CifarResNet((depth - 2) // 6, check_count("classes", classes), check_count("channels", channels))


def resnet20(classes: int = 10, channels: int = 3) -> nn.Module:
    """Return `cifar_resnet` of depth 20.

    Parameters
    ----------
    classes, channels
        As `cifar_resnet`.

    Returns
    -------
    nn.Module
        From images (n, channels, height, width) to logits (n, classes).
    """
    return cifar_resnet(20, classes, channels)
