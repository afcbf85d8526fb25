"""The compiled training losses against NumPy's float64, with every vector width; no torch here."""

from functools import cache

import numpy as np
import pytest
from scipy.special import logsumexp

from focalcal import inverse_focal_map, kernels
from test_compiled import LEVELS, needs_build

pytestmark = needs_build

FOCAL, INVERSE, DUAL, BRIER = range(4)
MEAN, SUM, EACH_ROW = range(3)
KEPT = 5

#: Number of classes: below, at and above whole vectors; one; and longer than a short sum.
WIDTHS = [1, 2, 3, 4, 7, 8, 10, 16, 17, 100, 1000]


@pytest.fixture(params=LEVELS)
def rows(request):
    module = kernels.compiled()
    before = module.level()
    module.set_level(request.param)
    yield module
    module.set_level(before)


def address(array):
    return 0 if array is None else array.ctypes.data


def run(rows, z, y, kind, gamma, *, steps=None, weight=None, reduction=MEAN, ignore=-100, upstream=1.0):
    """Return the loss and its gradient."""
    n, k = z.shape
    edges, gammas = steps if steps else (None, None)
    kept = np.full(n * KEPT + 1, np.nan)
    out = np.full(n if reduction == EACH_ROW else 1, np.nan, dtype=z.dtype)
    head = (z.dtype == np.float64, n, k, kind, reduction, gamma, 0 if edges is None else len(edges))
    body = (address(z), address(y), address(weight), ignore, address(edges), address(gammas), address(kept))
    total = kept[-1:].ctypes.data
    if not rows.loss_forward(*head, *body, total, address(out), 0, 0):
        return None
    gradient = np.full_like(z, np.nan)
    up = np.full(1, upstream, dtype=z.dtype)
    assert rows.loss_backward(*head, *body, total, address(gradient), address(up), 0)
    return out, gradient


def truth(z, y, kind, gamma):
    """Return each row's loss and gradient by the formulas in q, for rows that are not sure."""
    z = z.astype(np.float64)
    n, k = z.shape
    q = np.exp(z - z.max(axis=1, keepdims=True))
    q /= q.sum(axis=1, keepdims=True)
    own = q[np.arange(n), y]
    if kind == BRIER:
        gap = q - (np.arange(k) == y[:, None])
        return (gap**2).sum(axis=1), 2 * q * (gap - (q * gap).sum(axis=1, keepdims=True))
    gamma = np.broadcast_to(gamma, n)
    focal = (gamma >= 0) & (kind != INVERSE)
    size = np.abs(gamma)
    base = np.where(focal, 1 - own, 1 + own)
    by_base = np.where(focal, -1.0, 1.0)
    below = np.where(z < z[np.arange(n), y][:, None], q, 0.0)
    place = below.argmax(axis=1)
    rival = below.max(axis=1) if kind == DUAL else np.zeros(n)
    base = base + rival
    loss = -(base**size) * np.log(own)
    slope_own = -(base**size) / own - by_base * size * base ** (size - 1) * np.log(own)
    slope_rival = -size * base ** (size - 1) * np.log(own) * (rival > 0)

    def row_of_jacobian(j):
        return q[np.arange(n), j][:, None] * ((np.arange(k) == j[:, None]) - q)

    gradient = slope_own[:, None] * row_of_jacobian(y) + slope_rival[:, None] * row_of_jacobian(place)
    return loss, gradient


def problem(k, dtype, n=70, scale=2.0):
    rng = np.random.default_rng(k)
    z = (rng.normal(size=(n, k)) * scale).astype(dtype)
    return z, rng.integers(k, size=n)


@pytest.mark.parametrize("k", WIDTHS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("kind", "gamma"), [(FOCAL, 2.0), (FOCAL, 0.5), (INVERSE, 1.5), (DUAL, 2.5), (BRIER, 0.0)]
)
def test_losses_and_gradients_by_the_formulas(rows, k, dtype, kind, gamma):
    z, y = problem(k, dtype)
    loss, gradient = truth(z, y, kind, gamma) if k > 1 else (np.zeros(len(y)), np.zeros(z.shape))
    tight = {"rtol": 1e-5, "atol": 1e-6} if dtype == "float32" else {"rtol": 1e-10, "atol": 1e-12}
    found, slopes = run(rows, z, y, kind, gamma, reduction=EACH_ROW)
    np.testing.assert_allclose(found, loss, **tight)
    np.testing.assert_allclose(slopes, gradient, **tight)
    mean, slopes = run(rows, z, y, kind, gamma, upstream=3.0)
    np.testing.assert_allclose(mean, loss.mean(), **tight)
    np.testing.assert_allclose(slopes, 3 * gradient / len(y), **tight)


def test_gamma_steps_with_the_label_probability(rows):
    z, y = problem(5, "float64", n=300)
    q = np.exp(z - np.logaddexp.reduce(z, axis=1, keepdims=True))[np.arange(300), y]
    edges, gammas = np.array([0.1, 0.4, 0.4, 0.7]), np.array([3.0, 0.2, 9.0, -0.5, 1.5])
    gamma = gammas[np.searchsorted(edges, q, side="right")]
    assert set(gamma) == {3.0, 0.2, -0.5, 1.5}  # a bin between equal edges is empty
    loss, gradient = truth(z, y, FOCAL, gamma)
    found, slopes = run(rows, z, y, FOCAL, 0.0, steps=(edges, gammas), reduction=EACH_ROW)
    np.testing.assert_allclose(found, loss, rtol=1e-10)
    np.testing.assert_allclose(slopes, gradient, rtol=1e-9, atol=1e-13)


def test_an_edge_belongs_to_the_step_above(rows):
    z, y = np.zeros((1, 2)), np.zeros(1, dtype=int)  # q is 1/2 exactly
    for edge, gamma in ((0.5, 3.0), (np.nextafter(0.5, 1), 1.0)):
        found, _ = run(rows, z, y, FOCAL, 0.0, steps=(np.array([edge]), np.array([1.0, 3.0])))
        np.testing.assert_allclose(found, 0.5**gamma * np.log(2), rtol=1e-14)


@pytest.mark.parametrize("reduction", [MEAN, SUM])
def test_weights_and_ignored_rows(rows, reduction):
    z, y = problem(6, "float64")
    weight = np.linspace(0, 2, 6)
    y[::3] = 77
    kept = y != 77
    safe = np.where(kept, y, 0)
    loss, gradient = truth(z, safe, FOCAL, 2.0)
    share = np.where(kept, weight[safe], 0.0)
    total = share.sum() if reduction == MEAN else 1.0
    z[::3] = np.nan  # an ignored row is not read
    found, slopes = run(rows, z, y, FOCAL, 2.0, weight=weight, ignore=77, reduction=reduction)
    np.testing.assert_allclose(found, (loss * share).sum() / total, rtol=1e-12)
    np.testing.assert_allclose(slopes, gradient * share[:, None] / total, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", [FOCAL, INVERSE, DUAL, BRIER])
def test_sure_and_masked_rows(rows, dtype, kind):
    inf = np.inf
    z = np.array(
        [[1e4, 0, -5], [0, 1e4, 3], [1e4, 1e4, 0], [-1e4, 1e4, 0], [2, -inf, 1], [2, -inf, -inf]], dtype
    )
    y = np.array([0, 0, 1, 2, 0, 0])
    loss, gradient = run(rows, z, y, kind, 2.0, reduction=EACH_ROW)
    assert np.isfinite(loss).all()
    assert np.isfinite(gradient).all()
    assert (gradient[[4, 5, 5], [1, 1, 2]] == 0).all()
    np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=1e-6 * np.abs(gradient).max())
    two, slopes = run(rows, z[4:5, [0, 2]].copy(), y[4:5], kind, 2.0, reduction=EACH_ROW)
    np.testing.assert_allclose(loss[4:5], two, rtol=1e-6)
    np.testing.assert_allclose(gradient[4:5, [0, 2]], slopes, rtol=1e-6)
    assert loss[5] == 0
    assert loss[1] == pytest.approx(2 if kind == BRIER else 1e4, rel=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shifted_logits_lose_nothing(rows, dtype):
    z, y = problem(9, dtype)
    z = np.round(z * 4096) / 4096  # so that the shift is exact
    found, gradient = run(rows, z, y, FOCAL, 2.0)
    again, shifted = run(rows, z + np.asarray(1024, dtype), y, FOCAL, 2.0)
    np.testing.assert_array_equal(found, again)
    np.testing.assert_array_equal(gradient, shifted)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 5, 8, 10])
def test_what_torch_must_judge_is_left_to_it(rows, value, place):
    z, y = problem(11, "float32")
    y[:] = 5
    z[3, place] = value
    assert run(rows, z, y, FOCAL, 2.0) is None
    z[3, place] = 0
    z[3, 5] = -np.inf  # a masked label: its loss is infinite
    assert run(rows, z, y, FOCAL, 2.0) is None
    z[3, 5] = 0
    for wrong in (-1, 11):
        y[3] = wrong
        assert run(rows, z, y, FOCAL, 2.0) is None


def inverse(rows, z, gamma, upstream=None):
    out = np.full_like(z, np.nan)
    loop = rows.inverse_rows if upstream is None else rows.inverse_pull
    done = loop(z.dtype == np.float64, *z.shape, gamma, address(z), address(upstream), address(out))
    return out if done else None


@cache
def inverse_problem(k, gamma):
    """Return logits of up to thousands of nats, some of them masked, and log q in float64."""
    z, _ = problem(k, "float32", n=25)
    z *= np.logspace(-1, 3, 25, dtype="float32")[:, None]
    z[8, 0] = -np.inf
    wide = z.astype(float)
    return z, inverse_focal_map(wide - logsumexp(wide, axis=1, keepdims=True), gamma)


@pytest.mark.parametrize("k", [2, 3, 7, 8, 9, 40])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 3.0])
def test_the_inverse_map(rows, k, dtype, gamma):
    z, expected = inverse_problem(k, gamma)
    tight = {"rtol": 3e-6, "atol": 1e-6} if dtype == "float32" else {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(inverse(rows, z.astype(dtype), gamma), expected, **tight)
    alone = np.where(np.arange(k) == 1, 5.0, -np.inf).astype(dtype)[None]
    np.testing.assert_array_equal(inverse(rows, alone, gamma), alone - 5)


@pytest.mark.parametrize("k", [2, 5, 8, 19])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_gradient_of_the_inverse_map(rows, k, gamma):
    z, _ = problem(k, "float64", n=12)
    by = np.random.default_rng(1).normal(size=z.shape)
    found = inverse(rows, inverse(rows, z, gamma), gamma, by)
    step = 1e-5
    numerical = np.empty_like(z)
    for j in range(k):
        aside = step * (np.arange(k) == j)
        moved = inverse(rows, z + aside, gamma) - inverse(rows, z - aside, gamma)
        numerical[:, j] = (moved * by).sum(axis=1) / (2 * step)
    np.testing.assert_allclose(found, numerical, atol=1e-7)
    single = inverse(rows, found.astype(np.float32), gamma, by.astype(np.float32))
    assert np.isfinite(single).all()


def test_rows_that_the_inverse_leaves_to_torch(rows):
    for value in (np.nan, np.inf):
        z = np.zeros((3, 5))
        z[1, 4] = value
        assert inverse(rows, z, 1.0) is None
    assert inverse(rows, np.full((1, 3), -np.inf), 1.0) is None
