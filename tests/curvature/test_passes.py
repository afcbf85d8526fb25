"""Passes over the data: what is kept from one to the next, where they run, and how they leave a model."""

import copy
import gc
import weakref
from concurrent.futures import Executor, Future

import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from torch import nn  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

from curvature.dense import Problem  # noqa: E402
from focalcal import nn as fnn  # noqa: E402
from focalcal.curvature import LossSurface, measure, structured_trace  # noqa: E402
from focalcal.curvature.rows import pulls as row_pulls  # noqa: E402
from focalcal.curvature.rows.forms import RowForms  # noqa: E402
from focalcal.curvature.surface.passes import HessianProduct, Value, estimate, side_by_side  # noqa: E402
from ranks import run_two_ranks  # noqa: E402

LOSS = nn.CrossEntropyLoss()


class Counted(list):
    """Batches that count how often they were read."""

    read = 0

    def __iter__(self):
        self.read += 1
        return super().__iter__()


def problem():
    """A surface of three batches, what each keeps in bytes, and a vector."""
    one = Problem(nn.Tanh)
    surface = LossSurface(one.net, LOSS, Counted(one.batches))
    return surface, torch.randn(surface.size, 2, dtype=torch.double)


def held(surface):
    return sum(surface._kept._bytes.values())


@pytest.mark.parametrize(("memory", "batches"), [(1e9, 3), (16_000, 2), (100, 0), (0, 0)])
def test_what_is_kept_changes_no_product_and_obeys_the_memory(memory, batches):
    surface, vectors = problem()
    expected = surface.hessian_product(vectors)
    surface.loader.read = 0
    with surface.keeping(memory):
        for _ in range(4):
            found = surface.hessian_product(vectors)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
            assert held(surface) <= memory
            assert len(surface._kept._batches) == batches
    assert surface.loader.read == (1 if batches == 3 else 4)
    assert surface._kept is None


def test_what_is_not_kept_is_freed_at_once():
    surface, _ = problem()
    alive = []

    def look(batch):
        alive.append(weakref.ref(batch))
        batch.slopes(LOSS)
        return torch.zeros(1, dtype=torch.double), 1.0

    gc.disable()
    try:
        with surface.keeping(0):
            surface.sums([look])
            assert [one() for one in alive] == [None] * 3
    finally:
        gc.enable()


@pytest.mark.parametrize("shuffled", ["labels", "inputs"])
def test_a_loader_that_gives_other_batches_is_named(shuffled):
    surface, vectors = problem()
    rows = list(surface.loader)
    if shuffled == "labels":
        surface.loader = torch.utils.data.DataLoader(
            list(zip(torch.cat([x for x, _ in rows]), torch.cat([y for _, y in rows]), strict=True)),
            batch_size=25,
            shuffle=True,
        )
    with surface.keeping(8_000):  # enough for one batch
        surface.hessian_product(vectors)
        if shuffled == "inputs":
            surface.loader = [(x + 0.1, y) for x, y in rows]
        with pytest.raises(ValueError, match=r"Expected the same batches in every pass, .* memory=0"):
            surface.hessian_product(vectors)
    surface.hessian_product(vectors)


def change_a_parameter(net):
    with torch.no_grad():
        net[0].bias.add_(1.0)


def change_running_statistics(net):
    net.train()
    net(torch.randn(9, 5, dtype=torch.double))
    net.eval()


@pytest.mark.parametrize("change", [change_a_parameter, change_running_statistics])
def test_a_model_that_changes_while_graphs_are_kept_is_named(change):
    one = Problem()
    net = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 4)).double()
    surface = LossSurface(net, LOSS, one.batches)
    vector = torch.randn(surface.size, dtype=torch.double)
    with surface.keeping(1e9):
        before = surface.hessian_product(vector)
        torch.testing.assert_close(surface.hessian_product(vector), before)
        change(net)
        with pytest.raises(ValueError, match="Expected a model that stays as it is from pass to pass"):
            surface.hessian_product(vector)
    assert (surface.hessian_product(vector) - before).norm() > 1e-3
    with LossSurface(net, LOSS, one.batches, mode="train").keeping(1e9):  # whose passes move statistics
        surface.hessian_product(vector)
        surface.hessian_product(vector)


def test_an_exception_leaves_nothing_behind():
    surface, vectors = problem()
    net = surface.model.train()
    before, modes = copy.deepcopy(net.state_dict()), [module.training for module in net.modules()]
    seen = []

    def stop(batch):
        seen.append(batch.slopes(LOSS))
        if len(seen) == 5:
            raise RuntimeError("enough")
        return torch.zeros(1, dtype=torch.double), 1.0

    with pytest.raises(RuntimeError, match="enough") as caught, surface.keeping(1e9):  # noqa: PT012
        surface.hessian_product(vectors)
        surface.sums([stop])
        surface.sums([stop])
    assert surface._kept is None
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), before.values(), strict=True))
    x = torch.ones(2, requires_grad=True)
    y = x * 1
    z = y * y
    with torch.no_grad():
        y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):  # no hooks are left
        z.sum().backward()
    assert caught.value.args == ("enough",)


def rounds(count, task):
    """An estimator that sums what it finds in a number of rounds."""
    total = 0.0
    for _ in range(count):
        ((found, weight),) = yield [task]
        total += float(found.sum()) / weight
    return total


def test_estimators_of_several_rounds_share_their_passes():
    surface, vectors = problem()
    value, form = surface.value(), float(surface.hessian_product(vectors).sum())
    surface.loader.read = 0
    told = []
    each = [rounds(2, Value(LOSS)), rounds(5, HessianProduct(LOSS, vectors)), rounds(0, Value(LOSS))]
    found = estimate(surface, side_by_side(each), told.append)
    assert found == pytest.approx([2 * value, 5 * form, 0])
    assert surface.loader.read == 5
    assert [len(tasks) for tasks in told] == [2, 2, 1, 1, 1]


class Immediately(Executor):
    """The least that is an executor."""

    def __init__(self):
        self.submitted = 0

    def submit(self, function, /, *args, **kwargs):
        self.submitted += 1
        future = Future()
        future.set_result(function(*args, **kwargs))
        return future


def test_any_executor_will_do():
    surface, vectors = problem()
    other = LossSurface(surface.model, LOSS, surface.loader, executor=Immediately())
    torch.testing.assert_close(other.hessian_product(vectors), surface.hessian_product(vectors))
    assert other.executor.submitted == 3


OPTIONS = {"eigenvalues": 2, "budget": 400.0, "seed": 2}


def _rank(rank, path, sizes):
    one = Problem(nn.Tanh)
    wrapped = DistributedDataParallel(one.net)
    batches = list(zip(one.x.split(10), one.y.split(10), strict=True))
    own = batches[: sizes[0]] if rank == 0 else batches[sizes[0] :]
    surface = LossSurface(wrapped, LOSS, own, distributed=True)
    vector = torch.arange(surface.size, dtype=torch.double)
    found = measure(wrapped, fnn.FocalLoss(2.0), own, distributed=True, **OPTIONS)
    products = surface.value(), surface.gradient(), surface.hessian_product(vector)
    torch.save((*products, found.to_dict()), f"{path}/{rank}.pt")


@pytest.mark.slow
def test_ranks_sum_over_shards_of_unequal_size(tmp_path):
    run_two_ranks(_rank, tmp_path, str(tmp_path), (4, 2))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    one = Problem(nn.Tanh)
    surface = one.surface(LOSS)
    vector = torch.arange(surface.size, dtype=torch.double)
    expected = surface.value(), surface.gradient(), surface.hessian_product(vector)
    for here, there, alone in zip(first[:3], second[:3], expected, strict=True):
        assert torch.equal(torch.as_tensor(here), torch.as_tensor(there))
        alone = torch.as_tensor(alone).to(torch.as_tensor(here))
        torch.testing.assert_close(torch.as_tensor(here), alone)
    assert first[3] == second[3]
    alone = measure(one.net, fnn.FocalLoss(2.0), one.batches, **OPTIONS).to_dict()
    for name in ("training", "common"):
        ours, its = first[3][name], alone[name]
        assert ours["top"]["values"] == pytest.approx(its["top"]["values"], rel=1e-4)
        assert ours["loss"]["value"] == pytest.approx(its["loss"]["value"], rel=1e-12)
        assert ours["loss"]["stderr"] == pytest.approx(its["loss"]["stderr"], rel=1e-9)
        errors = ours["trace"]["stderr"] ** 2 + its["trace"]["stderr"] ** 2
        assert abs(ours["trace"]["value"] - its["trace"]["value"]) < 4 * errors**0.5  # other sketches
        assert ours["trace"]["rows"] == 60


def test_other_tasks_of_a_kept_pass_are_those_of_a_fresh_one(monkeypatch):
    surface, vectors = problem()
    fresh = surface.sums([RowForms(LOSS, vectors)]).totals[0]
    product, trace = surface.ggn_product(vectors), structured_trace(surface)
    monkeypatch.setattr(row_pulls, "_alone", None)  # a row at a time: only where torch.func cannot
    with surface.keeping(1e9):
        for _ in range(2):
            surface.hessian_product(vectors)
            torch.testing.assert_close(surface.sums([RowForms(LOSS, vectors)]).totals[0], fresh)
            torch.testing.assert_close(surface.ggn_product(vectors), product)
            assert structured_trace(surface) == trace
            size = held(surface)
        surface.ggn_product(vectors)
        assert held(surface) == size  # what is not kept does not count


def test_a_module_with_two_names_stays_what_it_is():
    shared = nn.Linear(4, 4)
    net = nn.Sequential(shared, nn.Tanh(), shared, nn.Linear(4, 3)).double()
    batches = [(torch.randn(9, 4, dtype=torch.double), torch.arange(9) % 3)]
    own = list(net.parameters())
    surface = LossSurface(net, LOSS, batches)
    slope = surface.gradient()
    assert slope[: shared.weight.numel()].norm() > 0
    surface.ggn_product(slope)
    measure(net, LOSS, batches, eigenvalues=1, budget=20)
    assert all(a is b for a, b in zip(net.parameters(), own, strict=True))
    torch.testing.assert_close(surface.gradient(), slope)
    # by torch itself it would not be
    torch.func.functional_call(net, {"0.weight": torch.ones(4, 4, dtype=torch.double)}, (batches[0][0],))
    assert net[0].weight is not own[0]
