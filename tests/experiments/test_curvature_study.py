"""The study of curvature: each run's numbers against dense Hessians, and what is said of made-up runs."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from focalcal.experiments.datasets import open_dataset  # noqa: E402
from focalcal.experiments.geometry import study as curvature_study  # noqa: E402
from focalcal.experiments.geometry.claims import (  # noqa: E402
    common_trace,
    control_families,
    equally_accurate,
    focal_families,
    own_trace,
    raw_ece,
)
from focalcal.experiments.geometry.page import curvature_page  # noqa: E402
from focalcal.experiments.geometry.study import measured, predicted_ratio  # noqa: E402
from focalcal.experiments.recipes import LOSSES, NETS, small  # noqa: E402
from focalcal.experiments.train import noisy, train  # noqa: E402
from focalcal.metrics import ece  # noqa: E402


def dense_trace(model, loss, x, y, divided_by=1.0):
    """Return the trace of a linear network's Hessian by torch's own second derivatives."""
    weight, bias = (p.detach() / divided_by for p in model.parameters())

    def value(flat):
        w, b = flat[: weight.numel()].view_as(weight), flat[weight.numel() :]
        return loss(torch.nn.functional.linear(x.flatten(1), w, b), y)

    hessian = torch.autograd.functional.hessian(value, torch.cat([weight.flatten(), bias]))
    return float(hessian.trace()), float(torch.linalg.eigvalsh(hessian.double())[-1])


@pytest.mark.parametrize(("loss", "noise"), [("focal-2", 0.2), ("ce", 0.0)])
def test_a_run_is_measured(tmp_path, monkeypatch, loss, noise):
    monkeypatch.setattr(curvature_study, "SKETCHES", 200)
    data = open_dataset("digits").smaller(60)
    recipe = replace(small("digits", "linear", loss, 3, epochs=2, rows=60), label_noise=noise)
    train(recipe, data, tmp_path)
    found = measured(recipe, data, tmp_path)
    model = NETS["linear"](1, 8, 10)
    model.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    x, y = data.normalised(data.train.x), noisy(data.train.y, noise, 10, 3)
    with torch.inference_mode():
        z = model(x)
        test = model(data.normalised(data.test.x))
    assert found["train"]["accuracy"] == pytest.approx(float((z.argmax(1) == y).double().mean()))
    assert found["raw"]["ece"] == pytest.approx(ece(data.test.y.numpy(), test.numpy(), input="logits").value)
    own, top = dense_trace(model, LOSSES[loss]("mean"), x, y)
    assert found["own"]["trace"] == pytest.approx(own, rel=0.03)
    assert found["own"]["top"] == pytest.approx(top, rel=2e-3)
    common, _ = dense_trace(model, torch.nn.CrossEntropyLoss(), x, y)
    assert found["common"]["trace"] == pytest.approx(common, rel=0.03)
    divided, _ = dense_trace(model, torch.nn.CrossEntropyLoss(), x, y, found["temperature"])
    assert found["divided"] == pytest.approx(divided, rel=0.03)
    torch.testing.assert_close(curvature_study._divided(model, 4.0)(x), model(x) / 4)
    with monkeypatch.context() as patched:  # what is kept is not measured again
        patched.setattr(curvature_study, "_network", None)
        assert measured(recipe, data, tmp_path) == found
    (tmp_path / "curvature.json").write_text('{"version": 0}')
    assert measured(recipe, data, tmp_path) == found


def test_the_prediction_is_what_the_optimum_has():
    """Minimise the expected losses over one row's logits, and take torch's Hessians there."""
    q = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.double)

    def trace(loss):
        def expected(z):
            return sum(q[k] * loss(z[None], torch.tensor([k])) for k in range(4))

        z = torch.zeros(4, dtype=torch.double, requires_grad=True)
        optimizer = torch.optim.LBFGS([z], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15)

        def closure():
            optimizer.zero_grad()
            value = expected(z)
            value.backward()
            return value

        optimizer.step(closure)
        return float(torch.autograd.functional.hessian(expected, z.detach()).trace())

    ratio = trace(LOSSES["focal-2"]("mean")) / trace(torch.nn.CrossEntropyLoss())
    assert predicted_ratio(2.0, 0.3, 4) == pytest.approx(ratio, rel=1e-5)
    assert predicted_ratio(0.0, 0.3, 4) == pytest.approx(1.0)


def made(trace, value, *, accuracy=0.6, common=10.0):
    raw = {"nll": 1.0, "ece": value, "gap": value}
    return {
        "temperature": 2.0 + value,
        "accuracy": accuracy,
        "val accuracy": accuracy,
        "raw": raw,
        "scaled": raw | {"ece": 0.01 + value / 100},
        "train": {"accuracy": 1.0, "nll": 0.1},
        "own": {"trace": trace, "top": trace / 5},
        "common": {"trace": common, "top": common / 5},
        "divided": 2 * common,
    }


def runs():
    """Return runs whose own trace halves with γ and whose ECE falls with it, seed by seed."""
    found = []
    for seed in range(4):
        for gamma, loss in ((0, "ce"), (1, "focal-1"), (3, "focal-3")):
            one = made((8 + seed) / 2**gamma, 0.3 - 0.05 * gamma - 0.01 * seed, common=10.0 + seed)
            found.append(
                (
                    small("digits", "mlp", loss, seed),
                    one | {"own": {"trace": (8 + seed) / 2**gamma, "top": 1.0}},
                )
            )
        plain = small("digits", "mlp", "ce", seed)
        for decay, accuracy in ((2e-3, 0.61), (5e-3, 0.595), (1e-2, 0.5)):
            one = made(4.0, 0.1 + seed / 100, accuracy=accuracy, common=(10.0 + seed) / 4)
            found.append((replace(plain, decay=decay), one))
    return found


def test_families_and_pairs():
    (family,) = focal_families(runs())
    assert (list(family.by), family.strengths) == ([0.0, 1.0, 3.0], [1.0, 3.0])
    ratio = family.ratio(3.0, own_trace)  # the same for every seed
    assert (ratio.value, ratio.low, ratio.high, ratio.n) == pytest.approx((1 / 8, 1 / 8, 1 / 8, 4))
    assert family.difference(1.0, raw_ece).value == pytest.approx(-0.05)
    assert family.difference(1.0, raw_ece).high == pytest.approx(-0.05)
    held = [one for recipe, one in runs() if recipe.decay == 5e-4]
    expected = spearmanr([own_trace(one) for one in held], [raw_ece(one) for one in held]).statistic
    whole = family.correlation(own_trace, raw_ece)
    assert whole.value == pytest.approx(expected)
    assert whole.low < whole.value <= whole.high
    within = family.correlation(own_trace, raw_ece, within=True)
    assert within.value < -0.9  # of one γ, with the seed traces rise and the ECE falls
    assert np.isnan(family.correlation(lambda one: 1.0, raw_ece).value)
    assert focal_families(runs(), noisy=True) == []
    noise = [(replace(recipe, label_noise=0.2), one) for recipe, one in runs()]
    assert focal_families(noise) == []
    assert len(focal_families(noise, noisy=True)) == 1


def test_the_strongest_control_of_equal_accuracy():
    controls = control_families(runs())
    assert list(controls) == ["weight decay"]
    (family,) = controls["weight decay"]
    assert list(family.by) == [0.0, 2e-3, 5e-3, 1e-2]
    assert equally_accurate(family) == 5e-3
    assert family.ratio(5e-3, common_trace).value == pytest.approx(1 / 4)
    worse = [(recipe, one | {"val accuracy": 0.9 if recipe.decay == 5e-4 else 0.5}) for recipe, one in runs()]
    assert equally_accurate(control_families(worse)["weight decay"][0]) is None


def test_the_page_says_what_the_runs_say(tmp_path):
    page = curvature_page(tmp_path / "c.html", runs(), {"Runs": "24"}, profile="small", command="again")
    text = (tmp_path / "c.md").read_text()
    assert page.is_file()
    assert "Focal loss flattens its own surface, but not that of cross-entropy: in 2 of 2 settings" in text
    assert "lower in 0, higher in 0, open in 2" in text
    assert "weight decay 0.005 (digits, mlp, equal accuracy): trace 0.250 \\[0.250, 0.250] times" in text
    steeper = [
        (recipe, one | {"own": {"trace": 100.0 + recipe.seed, "top": 1.0}})
        if recipe.loss != "ce"
        else (recipe, one)
        for recipe, one in runs()
    ]
    curvature_page(tmp_path / "c.html", steeper, {}, profile="small", command="again")
    assert "Focal loss does not always flatten" in (tmp_path / "c.md").read_text()
    curvature_page(tmp_path / "c.html", runs()[:3], {}, profile="small", command="again")  # one seed
    assert "–" in (tmp_path / "c.md").read_text()
