"""Operations against arithmetic by hand, hours and the table from them."""

from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from focalcal.curvature import SAM, TracePenalty  # noqa: E402
from focalcal.experiments import costs  # noqa: E402
from focalcal.experiments.costs import costs_table, forward_flops, hours, measured_tflops, run_flops  # noqa: E402
from focalcal.experiments.recipes import NETS, Recipe, published  # noqa: E402
from focalcal.experiments.shapes import made_images  # noqa: E402

DIGITS = Recipe("digits", "mlp", epochs=7)
MLP = 2 * (64 * 128 + 128 * 128 + 128 * 10)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def conv(before, after, size, side):
    return before * after * size**2 * side**2


def bottlenecks(counts):
    total, before, side = conv(3, 64, 3, 32), 64, 32
    for stage, blocks in enumerate(counts):
        width = 64 * 2**stage
        for block in range(blocks):
            halved = stage > 0 and block == 0
            total += conv(before, width, 1, side)
            side = side // 2 if halved else side
            total += conv(width, width, 3, side) + conv(width, 4 * width, 1, side)
            total += conv(before, 4 * width, 1, side) if block == 0 else 0
            before = 4 * width
    return total + before * 10


def wide():
    total, before, side = conv(3, 16, 3, 32), 16, 32
    for stage, width in enumerate((160, 320, 640)):
        side = side // 2 if stage else side
        total += conv(before, width, 3, side) + conv(before, width, 1, side) + 7 * conv(width, width, 3, side)
        before = width
    return total + 640 * 10


def dense():
    total, before, side = conv(3, 64, 3, 32), 64, 32
    for block, layers in enumerate((6, 12, 24, 16)):
        for _ in range(layers):
            total += conv(before, 128, 1, side) + conv(128, 32, 3, side)
            before += 32
        if block < 3:
            total += conv(before, before // 2, 1, side)
            before, side = before // 2, side // 2
    return total + before * 10


@pytest.mark.parametrize(
    ("net", "products", "billions"),
    [
        ("resnet50", bottlenecks([3, 4, 6, 3]), 1.30),
        ("resnet110", bottlenecks([3, 4, 26, 3]), 2.72),
        ("wide_resnet", wide(), 5.24),
        ("densenet121", dense(), 0.89),
    ],
)
def test_published_networks_by_hand(net, products, billions):
    assert forward_flops(net, 3, 32, 10) == 2 * products
    assert round(products / 1e9, 2) == billions


def test_what_makes_a_run_dearer(no_gpu):
    plain = run_flops(DIGITS)
    assert plain == 7 * 1000 * 3 * MLP
    assert run_flops(replace(DIGITS, rho=0.1)) == 2 * plain
    assert run_flops(replace(DIGITS, penalty=0.1)) == pytest.approx(1.4 * plain, rel=1e-12)
    assert run_flops(replace(DIGITS, loss="adafocal")) == plain + 7 * 300 * MLP
    # as many images of each part at most
    assert run_flops(replace(DIGITS, loss="adafocal", rows=100)) == 7 * (300 + 100) * MLP
    assert hours(DIGITS) == pytest.approx(plain / 20e12 / 3600)
    assert hours(DIGITS, tflops=5.0) == pytest.approx(4 * hours(DIGITS))
    with pytest.raises(ValueError, match=r"^Expected tflops finite and above 0, got 0"):
        hours(DIGITS, tflops=0.0)


def test_steps_count_as_many_operations_as_is_said():
    model = NETS["resnet20"](3, 16, 10)
    x, y, ce = torch.randn(2, 3, 16, 16), torch.tensor([1, 2]), torch.nn.CrossEntropyLoss()

    def counted(work):
        with FlopCounterMode(display=False) as counter:
            work()
        return counter.get_total_flops()

    forward = counted(lambda: model(x))
    step = counted(lambda: ce(model(x), y).backward())
    assert forward == 2 * forward_flops("resnet20", 3, 16, 10)
    assert step / forward == pytest.approx(3, rel=0.02)
    assert counted(lambda: SAM(model, 0.1).backward(lambda: ce(model(x), y))) == 2 * step
    penalty = counted(lambda: TracePenalty(0.1)(model, ce, x, y).backward())
    assert penalty / step == pytest.approx(4, rel=0.05)


def test_files_need_their_images():
    of_file = replace(DIGITS, data="mine.npz")
    with pytest.raises(ValueError, match=r"^Expected a data set of cifar10, .* got 'mine.npz', of which"):
        run_flops(of_file)
    made = made_images("digits", 5)
    assert run_flops(of_file, made) == 7 * 5 * 3 * MLP
    assert run_flops(replace(of_file, loss="adafocal"), made) == 7 * 5 * 4 * MLP


def test_a_measured_speed(monkeypatch):
    ticks = count()
    clock = SimpleNamespace(perf_counter=lambda: 0.5 * next(ticks))  # half a second a step
    monkeypatch.setattr(costs, "time", clock)
    recipe = replace(DIGITS, batch_size=4, loss="adafocal", rho=0.1)
    expected = 4 * 3 * MLP / 0.5 / 1e12
    assert measured_tflops(recipe, device="cpu") == pytest.approx(expected)
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(costs, "measured_tflops", lambda *of: asked.append(of) or 2.0)
    assert hours(recipe) == hours(recipe, tflops=2.0)
    assert asked == [(recipe, None)]
    assert "measured on this machine's GPU" in costs_table([recipe])


def test_the_table(no_gpu):
    runs = [published("cifar10", "resnet50", loss, seed) for loss in ("ce", "adafocal") for seed in (0, 1)]
    runs += [replace(runs[0], rho=0.1), published("tinyimagenet", "resnet50", "ce")]
    lines = costs_table(runs).splitlines()
    # 2.595659776 · 10^9 · 3 · 45,000 · 350 / 20 · 10^12 / 3600 = 1.7034 hours; × (2 + 2 · 28/27 + 2)
    assert (
        lines[2] == "| cifar10 | resnet50 | 350 | 2.6 | 1.7 | adafocal × 1.04, ce + SAM × 2.00 | 5 | 10.3 |"
    )
    assert lines[3] == "| tinyimagenet | resnet50 | 100 | 10.4 | 4.33 |  | 1 | 4.3 |"
    assert lines[4] == "| all | | | | | | 6 | 14.7 |"
    assert "20 · 10¹² operations a second on one GPU is assumed" in lines[-1]
    assert "A speed of 3 · 10¹² operations" in costs_table(runs, tflops=3.0)
