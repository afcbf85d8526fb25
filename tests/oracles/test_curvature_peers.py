"""Curvature against PyHessian, hessian-eigenthings and curvlinops: kept numbers or the libraries."""

import importlib.util
import json

import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from focalcal.curvature import LossSurface, hutchinson_trace, structured_trace  # noqa: E402
from focalcal.nn import FocalLoss  # noqa: E402
from oracles.freeze_curvature import (  # noqa: E402
    FILE,
    LOSSES,
    MATRICES,
    SIZES,
    by_columns,
    eigenthings_matrix,
    problem,
    summary,
    waves,
)

FROZEN = json.loads(FILE.read_text())
MODULES = {
    "PyHessian": "pyhessian",
    "hessian-eigenthings": "hessian_eigenthings",
    "curvlinops-for-pytorch": "curvlinops",
}
OURS = {"cross-entropy": torch.nn.CrossEntropyLoss(), "focal": FocalLoss(2.0)}
CASES = [(library, kind, name) for library, kind in MATRICES for name in LOSSES]


def surface(name, dtype=torch.float64):
    model, batches = problem(dtype)
    return LossSurface(
        model, torch.nn.CrossEntropyLoss() if name == "cross-entropy" else FocalLoss(2.0), batches
    )


def matrix(name, kind):
    ours = surface(name)
    product = ours.hessian_product if kind == "hessian" else ours.ggn_product
    return product(torch.eye(ours.size, dtype=torch.float64))


def agree(ours, theirs, within=1e-10):
    scale = theirs["frobenius"]
    for key, value in theirs.items():
        assert ours[key] == pytest.approx(value, abs=within * scale), key


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize(("library", "kind", "name"), CASES)
def test_against_kept_numbers(library, kind, name):
    agree(summary(matrix(name, kind)), FROZEN[f"{library} {kind} {name}"])


@pytest.mark.parametrize("name", LOSSES)
def test_in_single_precision(name):
    ours = surface(name, torch.float32)
    theirs = FROZEN[f"curvlinops-for-pytorch hessian {name}"]
    assert ours.hessian_product(waves(ours.size)).tolist() == pytest.approx(
        theirs["product"], abs=2e-6 * theirs["frobenius"]
    )


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (lambda: hutchinson_trace(surface("focal"), probes=100), "hessian"),
        (lambda: structured_trace(surface("focal"), sketches=100), "ggn"),
    ],
)
def test_estimates_of_the_trace_cover_the_kept_ones(found, kind):
    truth, estimate = FROZEN[f"curvlinops-for-pytorch {kind} focal"]["trace"], found()
    assert abs(estimate.value - truth) < 3 * estimate.stderr < 0.3 * truth


@pytest.mark.parametrize("name", LOSSES)
def test_who_averages_batches_instead_of_rows_is_off(name):
    """A known fault of hessian-eigenthings: five rows of 37 weigh a third."""
    theirs, right = (FROZEN[f"hessian-eigenthings {kind} {name}"] for kind in ("batched", "hessian"))
    assert abs(theirs["trace"] / right["trace"] - 1) > 0.015
    model, batches = problem()
    alone = [LossSurface(model, OURS[name], [batch]) for batch in batches]
    by_batches = [by_columns(one.hessian_product, model) for one in alone]
    agree(summary(sum(by_batches) / len(SIZES)), theirs)
    by_rows = sum(size * one for size, one in zip(SIZES, by_batches, strict=True)) / sum(SIZES)
    agree(summary(by_rows), right)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # the libraries' own
@pytest.mark.parametrize(("library", "kind", "name"), CASES)
def test_against_the_library_itself(library, kind, name):
    if importlib.util.find_spec(MODULES[library]) is None:
        pytest.skip(f"{library} is an oracle, not a dependency; its numbers are kept")
    theirs = MATRICES[library, kind](name)
    assert (matrix(name, kind) - theirs).abs().max() < 1e-12 * theirs.norm()


def test_the_library_still_averages_batches():
    pytest.importorskip("hessian_eigenthings", reason="an oracle, not a dependency; its numbers are kept")
    agree(summary(eigenthings_matrix("focal", batched=True)), FROZEN["hessian-eigenthings batched focal"])
