"""Calibration errors as the papers print them, for set-ups that the recipes have too.

Checked against the table in the README of github.com/torrvision/focal_calibration (at 475422a, CIFAR-10) and
Table 1 of AdaFocal's manuscript as it stood under review, which prints those of Mukhoti et al. again beside
its own: the two agree in every number that both have. Left out is what was seen in neither: FL-3 on
CIFAR-100 and Tiny ImageNet, and AdaFocal's table as it was published in the end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from focalcal.experiments.recipes import Recipe, published

MUKHOTI = "Mukhoti et al. 2020, arXiv 2002.09437, Table 1"
ADAFOCAL = "Ghosh et al. 2022, AdaFocal, Table 1 of the manuscript under review (means of 5 runs)"

_LOSSES = ("ce", "brier", "flsd-53", "adafocal", "focal-3")

#: ECE in % with 15 bins of equal width, before and after temperature scaling, and its T.
_ROWS = """
cifar10      resnet50    4.35 1.35(2.5)  1.82 1.08(1.1)  1.55 0.95(1.1)  0.8  0.65(1.08)  1.48 1.42(1.1)
cifar10      resnet110   4.41 1.09(2.8)  2.56 1.25(1.2)  1.87 1.07(1.1)  0.8  0.65(1.06)  1.55 1.02(1.1)
cifar10      wide_resnet 3.23 0.92(2.2)  1.25 1.25(1.0)  1.56 0.84(0.9)  0.7  0.7(1.0)    1.69 0.97(0.9)
cifar10      densenet121 4.52 1.31(2.4)  1.53 1.53(1.0)  1.22 1.22(1.0)  0.76 0.66(1.02)  1.32 1.26(0.9)
cifar100     resnet50    17.52 3.42(2.1) 6.52 3.64(1.1)  4.5 2.0(1.1)    1.3  1.3(1.0)
cifar100     resnet110   19.05 4.43(2.3) 7.88 4.65(1.2)  8.56 4.12(1.2)  1.3  1.3(1.0)
cifar100     wide_resnet 15.33 2.88(2.2) 4.31 2.7(1.1)   3.03 1.64(1.1)  1.92 1.92(1.0)
cifar100     densenet121 20.98 4.27(2.3) 5.17 2.29(1.1)  3.73 1.31(1.1)  1.74 1.74(1.0)
tinyimagenet resnet50    15.32 5.48(1.4) 4.44 4.13(0.9)  1.76 1.76(1.0)  2.41 2.25(0.96)
"""


@dataclass(frozen=True)
class Printed:
    """One cell of a published table.

    Attributes
    ----------
    data, net, loss : str
        As `Recipe` has them.
    before, after : float
        ECE in percent, 15 bins of equal width, without and with temperature scaling.
    temperature : float
        That lowers the validation rows' ECE most.
    source : str
    """

    data: str
    net: str
    loss: str
    before: float
    after: float
    temperature: float
    source: str

    @property
    def name(self) -> tuple[str, str, str]:
        """Data set, network and loss."""
        return self.data, self.net, self.loss


def printed() -> list[Printed]:
    """Return every number.

    Examples
    --------
    >>> one = printed()[0]
    >>> one.name, one.before, one.after, one.temperature
    (('cifar10', 'resnet50', 'ce'), 4.35, 1.35, 2.5)
    """
    found = []
    for line in _ROWS.strip().splitlines():
        data, net, *numbers = re.findall(r"[^\s()]+", line)
        for i, loss in enumerate(_LOSSES[: len(numbers) // 3]):
            before, after, temperature = map(float, numbers[3 * i : 3 * i + 3])
            source = ADAFOCAL if loss == "adafocal" else MUKHOTI
            found.append(Printed(data, net, loss, before, after, temperature, source))
    return found


def is_published(recipe: Recipe) -> bool:
    """Return whether a run has the published set-up, but for its seed and precision.

    Examples
    --------
    >>> from focalcal.experiments.recipes import small
    >>> is_published(published("cifar10", "resnet50", "ce", 3)), is_published(small("digits", "mlp", "ce"))
    (True, False)
    """
    there = published(recipe.data, recipe.net, recipe.loss, recipe.seed)
    same = {"precision": recipe.precision}
    return recipe.to_dict() == there.to_dict() | same
