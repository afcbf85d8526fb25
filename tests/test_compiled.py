"""The compiled row loops against the NumPy ones that define what is true, with every vector width."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import load_scores, needs_data, score_files
from focalcal import evaluate, focal_map, kernels, maps
from focalcal._validate import SUM_TOLERANCE, to_logits
from focalcal.kernels import loops
from focalcal.rows import Block, in_blocks
from focalcal.sums.bins import equal_width_edges
from focalcal.sums.judging import Pass

BUILT = kernels.describe() != "NumPy"
LEVELS = kernels.compiled().levels() if BUILT else ["not built"]
needs_build = pytest.mark.skipif(not BUILT, reason=f"the loops in use are {kernels.describe()}")

#: The sanitizers make everything slow, so that they run fewer examples.
EXAMPLES = int(os.environ.get("FOCALCAL_EXAMPLES", "100"))

TOLERANCE = {"float32": 1e-6, "float64": 1e-12}


@pytest.fixture(params=LEVELS)
def level(request):
    """Use one width of vectors for a test."""
    rows, before = kernels.compiled(), kernels.compiled().level()
    rows.set_level(request.param)
    yield request.param
    rows.set_level(before)


def each_level():
    """Use one width after the other within a test."""
    rows, before = kernels.compiled(), kernels.compiled().level()
    try:
        for name in LEVELS:
            rows.set_level(name)
            yield name
    finally:
        rows.set_level(before)


def test_the_loops_are_built_where_there_is_a_compiler():
    if os.environ.get("FOCALCAL_KERNELS") == "reference":
        pytest.skip("FOCALCAL_KERNELS=reference asks for NumPy")
    if not (shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")):
        pytest.skip("there is no C compiler here: NumPy does the work")
    assert BUILT, "a C compiler is present, so install again: pip install --editable ."


@dataclass
class Case:
    """Rows as they may come; `repr` is what hypothesis prints of a failure."""

    seed: int
    n: int
    n_classes: int
    dtype: str
    kind: str
    scale: float
    masked: float
    whole: bool  # logits are whole numbers: many ties
    layout: str
    weighted: bool

    def draw(self):
        """Return scores, codes and weights."""
        rng = np.random.default_rng(self.seed)
        z = rng.normal(size=(self.n, self.n_classes)) * self.scale
        if self.whole:
            z = np.round(z)
        z[rng.random(z.shape) < self.masked] = -np.inf
        z[np.arange(self.n), rng.integers(0, self.n_classes, self.n)] = 0.0
        if self.kind == "probs":
            z = np.exp(z - z.max(axis=1, keepdims=True))
            z /= z.sum(axis=1, keepdims=True)
        scores = lay_out(z.astype(self.dtype), self.layout)
        codes = rng.integers(0, 2 if scores.ndim == 1 else self.n_classes, self.n)
        weight = rng.integers(0, 3, self.n) * rng.random(self.n) if self.weighted else None
        return scores, codes, weight


def lay_out(z, layout):
    """Return the same numbers with other strides; whatever lies between them must not be read."""
    n, k = z.shape
    if layout == "F":
        return np.asfortranarray(z)
    if layout == "view":
        wide = np.full((2 * n, k + 3), np.nan, z.dtype)
        wide[::2, 2 : k + 2] = z
        return wide[::2, 2 : k + 2]
    if layout == "reversed":
        return z[::-1, ::-1]
    if layout == "unaligned":
        return np.frombuffer(b"x" + z.tobytes(), z.dtype, z.size, offset=1).reshape(n, k)
    if layout == "one column":
        return np.where(np.isneginf(z[:, 0]), 0, z[:, 0]).astype(z.dtype)
    return z


cases = st.builds(
    Case,
    seed=st.integers(0, 10**6),
    n=st.integers(1, 150),
    n_classes=st.one_of(st.integers(2, 70), st.sampled_from([2, 3, 31, 32, 33, 63, 64, 65, 130, 300])),
    dtype=st.sampled_from(["float32", "float64"]),
    kind=st.sampled_from(["logits", "probs"]),
    scale=st.sampled_from([0.1, 1.0, 4.0, 100.0, 1e4]),
    masked=st.sampled_from([0.0, 0.3, 0.95]),
    whole=st.booleans(),
    layout=st.sampled_from(["C", "C", "F", "view", "reversed", "unaligned", "one column"]),
    weighted=st.booleans(),
)


# -- the elementary functions ---------------------------------------------------------------------------

FUNCTIONS = {
    "exp": (0, mp.exp, 0.75),
    "exp_low": (1, mp.exp, 0.75),
    "log": (2, mp.log, 0.75),
    "log1p": (3, mp.log1p, 1.25),
    "log_half": (4, lambda q: mp.log1p(-q), 0.8),
}


def arguments(name, dtype):
    rng = np.random.default_rng(0)
    low, high = (-87.3, 88.7) if dtype == np.float32 else (-708.3, 709.7)
    if name == "exp":
        parts = [rng.uniform(low, high, 400), rng.normal(size=400)]
    elif name == "exp_low":
        parts = [rng.uniform(low, 0, 400), -rng.exponential(size=400)]
    elif name == "log":
        near_one = 1 + rng.normal(size=400) * 10 ** rng.uniform(-7, -0.6, 400)
        parts = [np.exp(rng.uniform(low, high, 400)), np.abs(near_one)]
    elif name == "log1p":
        tiny = 10 ** rng.uniform(-30, -1, 200)
        parts = [10 ** rng.uniform(-30, 20, 300), rng.uniform(-0.9, 2, 300), -tiny]
    else:
        parts = [rng.uniform(0, 0.5, 400), 10 ** rng.uniform(-30, -0.31, 400), [0.5]]
    return np.concatenate(parts).astype(dtype)


def applied(name, x):
    out = np.empty_like(x)
    kernels.compiled().elementary(FUNCTIONS[name][0], x, out)
    return out


@needs_build
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_elementary_functions_to_the_last_place(name, dtype):
    x = arguments(name, dtype)
    _, function, units = FUNCTIONS[name]
    with mp.workprec(120):
        truth = [function(mp.mpf(float(v))) for v in x]
        for level in each_level():
            errors = [
                abs((mp.mpf(float(got)) - true) / true)
                for got, true in zip(applied(name, x), truth, strict=True)
                if true
            ]
            assert float(max(errors)) < units * np.finfo(dtype).eps, level


@needs_build
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_elementary_functions_at_their_ends(dtype, level):
    x = np.array([0.0, -0.0, -np.inf, np.inf, -1e30, 1e30, -1e4, 1e4, -720, 720], dtype)
    np.testing.assert_array_equal(applied("exp", x), [1, 1, 0, np.inf, 0, np.inf, 0, np.inf, 0, np.inf])
    low = x[x <= 0]
    np.testing.assert_array_equal(applied("exp_low", low), [1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(applied("log", np.array([0, 1], dtype)), [-np.inf, 0])
    np.testing.assert_array_equal(applied("log1p", np.array([0, 1e-30], dtype)), np.array([0, 1e-30], dtype))
    np.testing.assert_array_equal(
        applied("log_half", np.array([0, 1e-30], dtype)), -np.array([0, 1e-30], dtype)
    )


# -- judging --------------------------------------------------------------------------------------------


def judged(block, kind, bins):
    """Return the sums of the compiled loops as one dictionary, beside those of NumPy."""
    task = Pass(kind, bins, with_classes=True, with_confidence=True)
    return flat(task._compiled(block)), flat(in_blocks(task._judge, block))


def flat(sums):
    """Return every number of a Judged by its name."""
    numbers = {
        f"{score}.{name}": getattr(getattr(sums, score), name)
        for score in ("nll", "brier", "accuracy")
        for name in ("count", "weight", "weight_squared", "first", "cross", "square")
    }
    for bins in ("top", "classwise"):
        for name in ("count", "weight", "weight_squared", "confidence", "hit"):
            numbers[f"{bins}.{name}"] = getattr(getattr(sums, bins), name)
    numbers["signed"] = np.concatenate(sums.confidences.signed)
    return numbers | {"floored": sums.floored, "impossible": sums.impossible}


def near_an_edge(block, kind, bins):
    """Whether rounding may put a probability on the other side of an edge; on an edge there is no doubt."""
    p = np.exp(maps.map_block(to_logits(block.scores, kind).astype(float), 1.0, 0.0))
    edges = equal_width_edges(bins, block.scores.dtype)[1:-1]
    distance = np.abs(p[:, :, None] - edges).min(axis=2, initial=1.0)
    return bool(((distance < 1e-6) & (distance > 1e-9)).any())


def assert_same_sums(block, kind, bins):
    got, expected = judged(block, kind, bins)
    tolerance = TOLERANCE[block.scores.dtype.name]
    certain = not near_an_edge(block, kind, bins)
    for name, value in expected.items():
        if certain or "." not in name or name.split(".")[0] not in ("top", "classwise"):
            # a sum over rows is as exact as its largest terms
            size = np.abs(np.nan_to_num(value, posinf=0)).max(initial=0.0)
            np.testing.assert_allclose(
                got[name], value, rtol=2 * tolerance, atol=tolerance * (1e-3 + size) / 10, err_msg=name
            )


@needs_build
@given(cases, st.integers(1, 40))
@settings(max_examples=EXAMPLES)
def test_judging_equals_numpy(case, bins):
    block = Block(*case.draw())
    for _ in each_level():
        assert_same_sums(block, case.kind, bins)


@needs_build
@needs_data
@pytest.mark.parametrize("name", score_files())
def test_judging_real_scores_equals_numpy(name, level):
    scores, labels, kind, _ = load_scores(name)
    if scores.dtype == np.float16:
        scores = scores.astype(np.float32)
    assert_same_sums(Block(scores, labels, None), kind, 15)


@needs_build
def test_half_precision_is_judged_block_by_block():
    rng = np.random.default_rng(0)
    z = (rng.normal(size=(500, 7)) * 3).astype(np.float16)
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p = (p / p.sum(axis=1, keepdims=True)).astype(np.float16)
    y = rng.integers(0, 7, 500)
    for scores, kind in ((z, "logits"), (p, "probs"), (z[:, 0], "logits"), (p[:, 0], "probs")):
        task, block = Pass(kind, 15, True, True), Block(scores, y % scores.reshape(500, -1).shape[1], None)
        got, expected = task(block), in_blocks(task._judge, block)
        assert got.nll.first == pytest.approx(expected.nll.first, rel=1e-6)
        np.testing.assert_array_equal(got.top.count, expected.top.count)


WRONG = [
    *(
        ("logits", what, shape)
        for what in ("nan", "inf", "masked")
        for shape in [(200, 5), (200, 40), (200,)]
    ),
    *(
        ("probs", what, shape)
        for what in ("nan", "above", "below")
        for shape in [(200, 5), (200, 40), (200,)]
    ),
    *(("probs", "sum", shape) for shape in [(200, 5), (200, 40)]),
]


@needs_build
@pytest.mark.parametrize(("kind", "what", "shape"), WRONG)
def test_what_is_not_valid_gives_the_error_of_the_checks(kind, what, shape, level, monkeypatch):
    k = shape[1] if len(shape) == 2 else 2
    scores = np.full(shape, 1 / k if kind == "probs" else 0.5)
    bad = {"nan": np.nan, "inf": np.inf, "masked": -np.inf, "above": 1.5, "below": -0.1, "sum": 1 / k + 0.01}
    scores[137 if what == "masked" or len(shape) == 1 else (137, 1)] = bad[what]
    y = np.zeros(200, int)
    with pytest.raises(ValueError) as compiled:
        evaluate(y, scores, input=kind)
    monkeypatch.setattr(kernels, "compiled", lambda: None)
    with pytest.raises(ValueError) as reference:
        evaluate(y, scores, input=kind)
    assert str(compiled.value) == str(reference.value)


@needs_build
def test_nan_is_found_wherever_it_is(level):
    options = {"is_probs": False, "tolerance": 1e-3, "edges": np.array([0.0, 1.0])}
    for k in (2, 3, 9, 17, 32, 45, 70, 129):
        for dtype in (np.float32, np.float64):
            z = np.zeros((3, k), dtype)
            for at in np.ndindex(z.shape):
                z[at] = np.nan
                found = loops.judge(
                    z, np.zeros(3, int), None, with_classes=False, with_confidence=False, **options
                )
                assert found is None
                out = np.empty_like(z)
                assert not loops.map_rows(
                    z, 1.0, 0.0, out, is_probs=False, tolerance=1e-3, probabilities=False
                )
                z[at] = 0


@needs_build
@pytest.mark.parametrize("code", [-1, 3, 2**40])
def test_a_label_that_is_no_column_is_refused(code):
    codes = np.array([0, 1, code, 2])
    with pytest.raises(ValueError, match="Expected codes that are numbers of columns"):
        Pass("logits", 15)(Block(np.zeros((4, 3)), codes, None))


# -- maps -----------------------------------------------------------------------------------------------


def assert_same_map(scores, kind, temperature, gamma):
    logits = to_logits(scores, kind).astype(float)
    expected = maps.map_block(logits, temperature, gamma)
    finite = np.isfinite(expected)
    tolerance = TOLERANCE[scores.dtype.name] * (3 if kind == "probs" else 1)
    for probabilities in (False, True):
        got = np.empty(expected.shape, scores.dtype)
        options = {"is_probs": kind == "probs", "tolerance": SUM_TOLERANCE[scores.dtype.name]}
        assert loops.map_rows(scores, temperature, gamma, got, probabilities=probabilities, **options)
        if probabilities:
            np.testing.assert_allclose(got, np.exp(expected), atol=tolerance, rtol=1)
        else:
            np.testing.assert_array_equal(np.isneginf(got), ~finite)
            np.testing.assert_allclose(got[finite], expected[finite], atol=tolerance, rtol=tolerance)
        top = np.take_along_axis(got, logits.argmax(axis=1)[:, None], axis=1)[:, 0]
        np.testing.assert_array_equal(top, got.max(axis=1))  # the map keeps the top class on top


@needs_build
@given(cases, st.floats(0.2, 5.0), st.sampled_from([0.0, -1.0, -0.5, 0.5, 1.0, 3.0, 10.0]))
@settings(max_examples=EXAMPLES)
def test_mapping_equals_numpy(case, temperature, gamma):
    scores, _, _ = case.draw()
    for _ in each_level():
        assert_same_map(scores, case.kind, temperature, gamma)


@needs_build
@needs_data
@pytest.mark.parametrize("name", score_files())
def test_mapping_real_scores_equals_numpy(name, level):
    scores, _, kind, _ = load_scores(name)
    scores = scores[:2000].astype(np.float32 if scores.dtype == np.float16 else scores.dtype)
    for gamma in (0.0, 1.3):
        assert_same_map(scores, kind, 1.7, gamma)


@needs_build
def test_public_maps_are_the_compiled_ones_and_numpy_beyond_their_range(monkeypatch):
    z = np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32) * 3
    compiled = focal_map(z, 1.5), maps.temperature_map(z, 1e31), maps.temperature_map(z[:, ::-1], 0.7)
    monkeypatch.setattr(kernels, "compiled", lambda: None)
    reference = focal_map(z, 1.5), maps.temperature_map(z, 1e31), maps.temperature_map(z[:, ::-1], 0.7)
    for a, b in zip(compiled, reference, strict=True):
        assert a.dtype == b.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


# -- which loops are in use -----------------------------------------------------------------------------


def run(code, **environment):
    """Run a few lines in a new interpreter; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip(), done.stderr.strip()


DESCRIBE = "from focalcal import kernels; print(kernels.describe())"


@needs_build
@pytest.mark.parametrize("name", LEVELS)
def test_the_environment_chooses_the_vectors(name):
    assert run(DESCRIBE, FOCALCAL_SIMD=name)[0] == f"compiled ({name})"


@needs_build
def test_unknown_vectors_are_an_error():
    assert "Expected FOCALCAL_SIMD to be one of baseline" in run(DESCRIBE, FOCALCAL_SIMD="mmx")[1]


def test_the_environment_chooses_numpy():
    assert run(DESCRIBE, FOCALCAL_KERNELS="reference") == ("NumPy", "")
    assert "Expected FOCALCAL_KERNELS to be 'compiled' or" in run(DESCRIBE, FOCALCAL_KERNELS="rust")[1]


def test_missing_loops_are_said_once():
    lines = """
import sys
sys.modules["focalcal.kernels._rows"] = None
from focalcal import ece, kernels
print(kernels.describe(), [round(ece([1, 1], [0.95, 1.0]).value, 6) for _ in range(2)])
"""
    out, err = run(lines, FOCALCAL_KERNELS="")
    assert out == "NumPy [0.025, 0.025]"
    warned = [line for line in err.splitlines() if "CalibrationWarning" in line]
    assert len(warned) == 1
    assert "Install focalcal again where there is a C compiler" in warned[0]
