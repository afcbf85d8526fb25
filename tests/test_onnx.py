"""Calibrators as ONNX models: onnxruntime must say what `transform` says."""

import json
import sys
import warnings
from copy import copy
from functools import cache

import numpy as np
import pytest
from scipy.special import log_softmax

from cases import drawn
from fitted import assert_close, fitted, hard_rows

onnx = pytest.importorskip("onnx", reason="onnx is an optional extra: pip install 'focalcal[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX graphs are run by onnxruntime")

from sklearn.exceptions import NotFittedError  # noqa: E402

import focalcal  # noqa: E402
from focalcal.calibrators import _FAMILIES  # noqa: E402


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    data = model if isinstance(model, str) else model.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run(model, **inputs):
    return session(model).run(None, inputs)


@pytest.mark.parametrize("gamma", [None, -1.0, -0.9, -0.3, 0.0, 1.0, 5.0])
@pytest.mark.parametrize("n_classes", [2, 3, 10, 1000])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
def test_the_graph_is_the_calibrators_map(gamma, n_classes, dtype, tolerance):
    for temperature in (0.3, 1.0, 2.5):
        cal, z = fitted(n_classes, temperature, gamma), hard_rows(n_classes).astype(dtype)
        log_probs, probs = run(focalcal.to_onnx(cal, dtype=dtype), logits=z)
        assert log_probs.dtype == probs.dtype == dtype
        assert_close(log_probs, cal.transform(z.astype(float)), 5 * tolerance)  # of a nat, or of the value
        np.testing.assert_allclose(probs, cal.predict_proba(z.astype(float)), rtol=0, atol=tolerance)
        np.testing.assert_array_equal(probs.argmax(axis=1), z.argmax(axis=1))


@cache
def of_family(name, n_classes, wild=False):
    """Return a fitted calibrator; a wild one has a matrix or slopes that mix up the classes."""
    z, y = drawn(200, n_classes, 2.0, seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", focalcal.CalibrationWarning)
        cal = _FAMILIES[name]().fit(1.5 * z, y)
    if wild:
        rng = np.random.default_rng(0)
        for table in {"matrix", "slope", "bias", "intercept"} & set(cal._parameter_names):
            value = getattr(cal, f"{table}_")
            setattr(cal, f"{table}_", rng.normal(size=value.shape))
    return cal


def harder_rows(n_classes):
    """Return hard rows, and with more than two classes also sure ones that have masked classes."""
    z = hard_rows(n_classes, seed=1)
    masked = z[:20].copy()
    masked[:, 1 if n_classes > 2 else 0] = -np.inf
    masked[10:, -1] += 300
    return np.vstack([z, masked])


#: What the last digit of a score may become: isotonic functions are steep.
STEEP = {"IsotonicCalibration": 30}


@pytest.mark.parametrize("kind", ["logits", "probs"])
@pytest.mark.parametrize("n_classes", [2, 3, 10])
@pytest.mark.parametrize("name", _FAMILIES)
def test_every_family_is_its_own_map(name, n_classes, kind):
    cal, rows = of_family(name, n_classes), harder_rows(n_classes)
    if kind == "probs":
        cal = copy(cal).set_params(input="probs")
        rows = np.exp(log_softmax(rows.astype(float), axis=1))
    for dtype, tolerance in (("float64", 1e-13), ("float32", 5e-6)):
        x = rows.astype(dtype)
        log_probs, probs = run(
            focalcal.to_onnx(cal, dtype=dtype), **{"logits" if kind == "logits" else "raw_probs": x}
        )
        assert log_probs.dtype == probs.dtype == dtype
        assert_close(log_probs, cal.transform(x.astype(float)), tolerance * STEEP.get(name, 1))
        np.testing.assert_allclose(probs, cal.predict_proba(x.astype(float)), rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", [name for name in _FAMILIES if "Matrix" in name or "Vector" in name])
def test_matrices_that_mix_up_the_classes(name):
    cal, z = of_family(name, 10, wild=True), harder_rows(10)
    for dtype, tolerance in (("float64", 5e-14), ("float32", 5e-5)):
        log_probs, probs = run(focalcal.to_onnx(cal, dtype=dtype), logits=z.astype(dtype))
        assert_close(log_probs, cal.transform(z.astype(float)), tolerance)
        np.testing.assert_allclose(probs, cal.predict_proba(z.astype(float)), rtol=0, atol=tolerance / 20)


@pytest.mark.parametrize("gamma", [None, -0.5, 2.0])
def test_ties_stay_ties_and_sure_rows_keep_their_digits(gamma):
    cal = fitted(3, 1.5, gamma)
    z = np.array([[2.0, 2.0, -1.0], [7.0, 7.0, 7.0], [25.0, 0.0, 1.0]], np.float32)
    log_probs, _ = run(focalcal.to_onnx(cal), logits=z)
    assert log_probs[0, 0] == log_probs[0, 1]
    assert log_probs[1].tolist() == [log_probs[1, 0]] * 3
    # for two of the three, p of the top class is 1 in float32; its logarithm has five digits
    np.testing.assert_allclose(log_probs[2], cal.transform(z[2:].astype(float))[0], rtol=1e-5)
    assert log_probs[2, 0] < 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_probabilities_are_taken_where_they_were_declared(dtype):
    cal = fitted(4, 0.8, 1.5, input="probs")
    p = np.random.default_rng(0).dirichlet(np.ones(4), size=20).astype(dtype)
    p[0] = [1, 0, 0, 0]
    log_probs, _ = run(focalcal.to_onnx(cal, dtype=dtype), raw_probs=p)
    assert_close(log_probs, cal.transform(p), 1e-6 if dtype == "float32" else 1e-12)


def test_what_the_model_says_of_itself(tmp_path):
    cal = focalcal.TemperatureScaling(classes=["cat", "döner"]).fit([[4.0, 0.0]] * 4, ["cat"] * 3 + ["döner"])
    model = focalcal.to_onnx(cal, tmp_path / "cal.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(known.domain, known.version) for known in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    shapes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.output]
    assert shapes == [["N", 2], ["N", 2]]
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["focalcal_version"] == focalcal.__version__
    assert facts["focalcal_calibrator"] == "TemperatureScaling"
    assert float(facts["focalcal_temperature"]) == cal.temperature_
    assert json.loads(facts["focalcal_classes"]) == ["cat", "döner"]
    assert [path.name for path in tmp_path.iterdir()] == ["cal.onnx"]  # nothing is left aside
    log_probs, _ = run(str(tmp_path / "cal.onnx"), logits=np.array([[4, 0]], np.float32))
    np.testing.assert_allclose(np.exp(log_probs), [[0.75, 0.25]], atol=1e-6)


def test_tables_of_parameters_are_told_by_their_shapes():
    cal = of_family("FocalMatrixScaling", 10)
    facts = {entry.key: entry.value for entry in focalcal.to_onnx(cal).metadata_props}
    assert float(facts["focalcal_gamma"]) == cal.gamma_
    assert json.loads(facts["focalcal_matrix_shape"]) == [10, 10]
    assert json.loads(facts["focalcal_slopes_shape"]) == [4]
    assert "focalcal_matrix" not in facts


def test_shares_at_their_ends():
    z = harder_rows(3).astype(float)
    mixed, ensemble = (copy(of_family(f"{kind}TemperatureScaling", 3)) for kind in ("Mixed", "Ensemble"))
    for share in (0.0, 0.3, 1.0):
        mixed.share_ = share
        assert_close(run(focalcal.to_onnx(mixed, dtype="float64"), logits=z)[0], mixed.transform(z), 1e-13)
    for weights in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.5, 0.3, 0.2]):
        ensemble.weights_ = np.array(weights)
        found, _ = run(focalcal.to_onnx(ensemble, dtype="float64"), logits=z)
        assert_close(found, ensemble.transform(z), 1e-13)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-12)])
def test_a_share_of_the_uniform_distribution_before_the_matrix(dtype, tolerance):
    cal, z = copy(of_family("FocalMatrixScaling", 3, wild=True)), harder_rows(3).astype(dtype)
    for share in (1e-6, 0.01, 0.5):
        cal.uniform_share_ = share
        found, _ = run(focalcal.to_onnx(cal, dtype=dtype), logits=z)
        assert_close(found, cal.transform(z.astype(float)), tolerance)


def test_masked_classes_of_sure_rows_count_as_in_transform():
    cal = copy(of_family("PlattScaling", 3))
    cal.slope_ = np.full(3, 0.01)  # so that the odds of a sure row still matter
    z = np.array([[200, -np.inf, 0], [40, -np.inf, 0], [200, 0, 0], [-np.inf, 3, -np.inf]])
    found, _ = run(focalcal.to_onnx(cal, dtype="float64"), logits=z)
    assert_close(found, cal.transform(z), 1e-13)


@pytest.mark.parametrize("name", ["MatrixScaling", "DirichletCalibration", "SplineCalibration"])
def test_logits_of_any_size(name):
    cal, z = of_family(name, 4), drawn(50, 4, 2.0, seed=14)[0]
    for scale in (1e-12, 1e30):  # which leave the order of the classes
        for dtype in ("float32", "float64"):
            x = (scale * z).astype(dtype)
            _, probs = run(focalcal.to_onnx(cal, dtype=dtype), logits=x)
            np.testing.assert_allclose(probs, cal.predict_proba(x.astype(float)), atol=1e-6)


def test_a_bin_includes_its_upper_edge():
    cal = copy(of_family("HistogramBinning", 2))
    cal.edges_ = np.sort(np.r_[np.arange(-6.0, 7.0), 2.0])[None]  # one of them twice
    odds = np.r_[0.0, np.arange(-7.5, 8.0)]  # 0 is an edge, whatever is rounded
    z = np.stack([np.zeros(len(odds)), odds], axis=1)
    found, _ = run(focalcal.to_onnx(cal, dtype="float64"), logits=z)
    assert_close(found, cal.transform(z), 1e-13)


def test_no_rows_are_no_rows():
    log_probs, probs = run(focalcal.to_onnx(fitted(3, 2.0, 1.0)), logits=np.empty((0, 3), np.float32))
    assert log_probs.shape == probs.shape == (0, 3)


def linear(weight, opset=17, ir_version=8, kind=onnx.TensorProto.FLOAT, outputs=("logits",), free=False):
    """A classifier z = x W, with its output, or several, as float32 or what is said."""
    helper = onnx.helper
    nodes = [helper.make_node("Gemm", ["x", "W"], ["product"])]
    nodes += [helper.make_node("Cast", ["product"], [name], to=kind) for name in outputs]
    widths = [None if free else weight.shape[1]]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", weight.shape[0]])],
        [helper.make_tensor_value_info(name, kind, ["N", *widths]) for name in outputs],
        [onnx.numpy_helper.from_array(weight, "W")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    helper.set_model_props(model, {"classes": "its own"})
    return model


@pytest.mark.parametrize(("opset", "ir_version", "free"), [(13, 7, False), (17, 8, True), (22, 10, False)])
def test_a_classifier_is_followed_by_its_calibrator(tmp_path, opset, ir_version, free):
    rng = np.random.default_rng(0)
    weight, x = rng.normal(size=(4, 3)).astype(np.float32), rng.normal(size=(5, 4)).astype(np.float32)
    cal = fitted(3, 0.5, 2.0)
    model = linear(weight, opset, ir_version, free=free)
    onnx.save(model, tmp_path / "model.onnx")
    before = model.SerializeToString()
    for given in (model, tmp_path / "model.onnx"):
        joined = focalcal.to_onnx(cal, model=given)
        assert [known.version for known in joined.opset_import] == [opset]
        assert {"classes", "focalcal_classes"} <= {entry.key for entry in joined.metadata_props}
        assert [value.name for value in joined.graph.output] == ["log_probs", "probs"]
        assert_close(run(joined, x=x)[0], cal.transform((x @ weight).astype(float)), 5e-6)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("opset", [13, 22])
def test_every_family_behind_a_classifier(opset):
    rng = np.random.default_rng(0)
    weight, x = rng.normal(size=(4, 3)).astype(np.float32), rng.normal(size=(5, 4)).astype(np.float32)
    model = linear(weight, opset, 8 if opset < 20 else 10)
    for name in _FAMILIES:
        cal = of_family(name, 3)
        joined = focalcal.to_onnx(cal, model=model)
        assert_close(run(joined, x=x)[0], cal.transform((x @ weight).astype(float)), 5e-5)


def test_models_that_do_not_fit():
    cal, weight = fitted(3, 0.5, 2.0), np.ones((4, 3), np.float32)
    for model in (linear(weight, outputs=("a", "b")), linear(weight, opset=12)):
        with pytest.raises(ValueError, match="Expected a model of one output and opset 13 or later, got"):
            focalcal.to_onnx(cal, model=model)
    double = linear(weight, kind=onnx.TensorProto.DOUBLE)
    for model in (double, linear(np.ones((4, 5), np.float32))):
        with pytest.raises(
            ValueError,
            match=r"output is float32 of shape \(N, 3\), got (FLOAT|DOUBLE) of shape .* in 'logits'",
        ):
            focalcal.to_onnx(cal, model=model)
    with pytest.raises(TypeError, match=r"Expected model as an onnx\.ModelProto or the path of one, got int"):
        focalcal.to_onnx(cal, model=3)
    x = np.ones((2, 4), np.float32)
    log_probs, _ = run(focalcal.to_onnx(cal, dtype="float64", model=double), x=x)
    np.testing.assert_allclose(np.exp(log_probs), 1 / 3)


def test_wrong_calls():
    with pytest.raises(TypeError, match="Expected a calibrator of focalcal, got float"):
        focalcal.to_onnx(1.5)
    with pytest.raises(NotFittedError):
        focalcal.to_onnx(focalcal.TemperatureScaling())
    family = type("Own", (focalcal.calibrators.Calibrator,), dict.fromkeys(("_estimate",)))
    family.__abstractmethods__ = frozenset()
    own = family()
    own.classes_, own.input = np.arange(2), "logits"
    with pytest.raises(
        TypeError, match=r"ONNX can say \(TemperatureScaling, .*Spline.*\), got Own\. Use its"
    ):
        focalcal.to_onnx(own)
    with pytest.raises(ValueError, match="Expected dtype to be one of 'float32', 'float64', got 'float16'"):
        focalcal.to_onnx(fitted(2, 1.0), dtype="float16")


def test_without_onnx_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"to_onnx needs onnx: pip install 'focalcal\[onnx\]'"):
        focalcal.to_onnx(fitted(2, 1.0))


def test_files_that_are_no_models(tmp_path):
    calibrator = fitted(3, 0.5, 2.0)
    with pytest.raises(FileNotFoundError, match=r"Expected an ONNX model in .*gone.*, got no such file"):
        focalcal.to_onnx(calibrator, model=tmp_path / "gone.onnx")
    (tmp_path / "other.onnx").write_bytes(bytes(range(255, 0, -1)))
    with pytest.raises(ValueError, match=r"Expected an ONNX model in .*other.*, got another file"):
        focalcal.to_onnx(calibrator, model=tmp_path / "other.onnx")
