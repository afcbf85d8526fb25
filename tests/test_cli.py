"""The command line as users meet it: what they type, what they read, what is left when it fails."""

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from scipy.special import softmax

import focalcal
import focalcal.kernels
from focalcal import cli, jobs
from focalcal.calibrators import _FAMILIES
from focalcal.cli import main
from focalcal.cli.console import Progress
from focalcal.methods import METHODS

DATA = Path(__file__).parents[1] / "../shared/data"
K = 3


def predictions(n, seed=0):
    """Logits that are over-confident twofold, and the labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, K)) * 2
    labels = (softmax(logits, axis=1).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return (2 * logits).astype(np.float32), labels


def table(n=1000, seed=0, kind="logits"):
    logits, labels = predictions(n, seed)
    scores = logits if kind == "logits" else softmax(logits.astype(float), axis=1)
    return pa.table(
        {"id": [f"00{i}" for i in range(n)], **{f"z{j}": scores[:, j] for j in range(K)}, "y": labels}
    )


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pq.write_table(table(), "val.parquet")
    pq.write_table(table(seed=1), "test.parquet")
    pq.write_table(table(kind="probs"), "probs.parquet")


def succeed(capsys, *arguments):
    code = main(arguments)
    out, err = capsys.readouterr()
    assert (code, err) == (0, ""), err
    return out


def fail(capsys, *arguments):
    code = main(arguments)
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("focalcal: error: ")
    assert err.count("\n") == 1
    return err.removeprefix("focalcal: error: ").rstrip()


SCORES = ("--logits", "z*", "--label", "y")


def test_each_calibrator_has_a_short_name():
    assert sorted(METHODS.values()) == sorted(_FAMILIES)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_fits_its_calibrator(capsys, method):
    out = succeed(capsys, "fit", "val.parquet", *SCORES, "-o", "cal.json", "--method", method)
    assert "on 1,000 rows of val.parquet, 3 classes" in out
    cal = focalcal.load("cal.json")
    assert type(cal).__name__ == METHODS[method]
    logits, labels = predictions(1000)
    expected = type(cal)().fit(logits, labels)
    np.testing.assert_allclose(cal.predict_proba(logits), expected.predict_proba(logits), atol=1e-6)


def test_the_best_is_chosen_with_its_ranking(capsys):
    out = succeed(capsys, "fit", "val.parquet", *SCORES, "-o", "best.json", "--method", "auto")
    assert "log loss, rows left out" in out
    assert out.count("(chosen)") == 1
    cal = focalcal.load("best.json")
    assert len(cal.ranking_) == 2
    logits, labels = predictions(1000)
    expected = focalcal.fit_best(logits, labels)
    assert type(cal) is type(expected)
    np.testing.assert_allclose(cal.predict_proba(logits), expected.predict_proba(logits), atol=1e-6)
    document = json.loads(
        succeed(capsys, "fit", "val.parquet", *SCORES, "-o", "best.json", "--method", "auto", "--json")
    )
    assert document["calibrator"]["ranking"][0]["excess"]["value"] == 0


def test_with_few_rows_the_best_has_a_share_that_is_given(capsys):
    where = ["--where", "z0 > 1.5", "--method", "auto"]
    out = succeed(capsys, "fit", "val.parquet", *SCORES, "-o", "best.json", *where)
    cal = focalcal.load("best.json")
    assert type(cal) is focalcal.MixedTemperatureScaling
    assert cal.share_ == 1 / (4 * cal.n_fit_ + 4)
    assert re.search(r"share +0\.\d+ +given", out)


class TestJob:
    def test_from_a_table_to_a_verdict(self, capsys):
        out = succeed(capsys, "fit", "val.parquet", *SCORES, "-o", "cal.json", "--method", "ts")
        calibrator = focalcal.load("cal.json")
        assert calibrator.temperature_ == pytest.approx(2, abs=0.3)
        read = "1,000 rows of val.parquet, 3 classes; logits in z0, z1, z2."
        assert out.startswith(f"Temperature scaling, fitted by NLL on {read}\n")
        shown = re.search(r"temperature +(\S+) +(\S+)", out).groups()
        assert [*map(float, shown)] == [
            pytest.approx(calibrator.temperature_, abs=1e-4),
            pytest.approx(calibrator.stderr_["temperature"], abs=1e-4),
        ]
        assert "classes: 0, 1, 2" in out

        out = succeed(capsys, "apply", "cal.json", "test.parquet", "--logits", "z*", "-o", "out.csv")
        assert out == "Wrote out.csv: 1,000 rows, new: p_0, p_1, p_2, predicted\n"
        assert Path("out.csv").read_text().splitlines()[1].startswith("000,")

        out = succeed(capsys, "evaluate", "test.parquet", *SCORES, "--calibrator", "cal.json")
        logits, labels = predictions(1000, seed=1)
        before = focalcal.evaluate(labels, logits, input="logits")
        after = focalcal.evaluate(labels, calibrator.transform(logits), input="logits")
        for title, key in [
            ("NLL (nats)", "nll"),
            ("Brier score", "brier"),
            ("accuracy", "accuracy"),
            ("ECE ", "ece"),
        ]:
            line = next(line for line in out.splitlines() if line.startswith(title))
            cells = [f"{e.value:.4f} [{e.low:.4f}, {e.high:.4f}]" for e in (before[key], after[key])]
            assert line.endswith("   ".join(cells))
        assert "n = 1,000 rows, 3 classes; in brackets 95% intervals." in out
        assert after["nll"].value < before["nll"].value

        above = any(e.value > e.high for e in (*before.values(), *after.values()))
        assert ("counts chance as error" in out) == above

        again = succeed(capsys, "evaluate", "out.csv", "--probs", "p_*", "--label", "y")
        assert f"{after['nll'].value:.4f}" in again

        out = succeed(capsys, "report", "test.parquet", *SCORES, "--calibrator", "cal.json", "-o", "r.html")
        assert out == "Wrote r.html: open it in a browser\n"
        page = Path("r.html").read_text(encoding="utf-8")
        assert "Calibration of test.parquet" in page
        assert f"{after['nll'].value:.4f}" in page

    def test_json(self, capsys):
        fitted = json.loads(succeed(capsys, "fit", "val.parquet", *SCORES, "-o", "cal.json", "--json"))
        saved = json.loads(Path("cal.json").read_text())
        assert (fitted["command"], fitted["n"], fitted["output"]) == ("fit", 1000, "cal.json")
        assert fitted["calibrator"] == saved
        assert fitted["focalcal"] == focalcal.__version__
        applied = json.loads(
            succeed(
                capsys, "apply", "cal.json", "test.parquet", "--logits", "z*", "-o", "out.parquet", "--json"
            )
        )
        assert applied["added"] == ["p_0", "p_1", "p_2", "predicted"]
        options = (*SCORES, "--calibrator", "cal.json", "--json")
        judged = json.loads(succeed(capsys, "evaluate", "test.parquet", *options))
        logits, labels = predictions(1000, seed=1)
        assert judged["before"] == focalcal.evaluate(labels, logits, input="logits").to_dict()
        assert judged["after"]["metrics"]["ece"]["value"] < judged["before"]["metrics"]["ece"]["value"]
        judged = json.loads(succeed(capsys, "evaluate", "test.parquet", *options, "--all"))
        reported = json.loads(succeed(capsys, "report", "test.parquet", *options, "-o", "r.html"))
        assert {name: reported[name] for name in ("before", "after")} == {
            name: judged[name] for name in ("before", "after")
        }

    def test_numbers_that_are_not_finite_become_null(self, capsys):
        # a separable set has no standard error; a label of probability 0 an infinite loss
        logits = np.array([[9.0, 0.0, -np.inf], [0.0, 9.0, 1.0], [0.0, 1.0, 9.0]] * 4)
        np.savez("a.npz", logits=logits, labels=[0, 1, 2] * 4)
        fitted = json.loads(succeed(capsys, "fit", "a.npz", "-o", "cal.json", "--json"))
        assert fitted["calibrator"]["stderr"]["temperature"] is None
        assert any("separable" in note for note in fitted["notes"])
        np.savez("b.npz", logits=logits, labels=[2, 1, 2] * 4)
        judged = json.loads(succeed(capsys, "evaluate", "b.npz", "--json"))
        assert judged["before"]["metrics"]["nll"]["value"] is None
        assert len(judged["notes"]) == 1
        # before and after say the same: it is told once
        judged = json.loads(succeed(capsys, "evaluate", "b.npz", "--calibrator", "cal.json", "--json"))
        assert judged["after"]["metrics"]["nll"]["value"] is None
        assert len(judged["notes"]) == 1

    def test_notes_are_told_once_as_text(self, capsys):
        np.savez("a.npz", logits=np.eye(3) * 9, labels=[0, 1, 2])
        out = succeed(capsys, "fit", "a.npz", "-o", "cal.json")
        assert out.count("perfectly separable") == 1
        assert "\nnote: Every label has the largest score" in out
        assert "Warning" not in out

    def test_other_warnings_go_on(self, monkeypatch):
        def warn(*arguments, **options):
            warnings.warn("odd", DeprecationWarning, stacklevel=1)
            return judge(*arguments, **options)

        judge = jobs.evaluate_file
        monkeypatch.setattr(jobs, "evaluate_file", warn)
        with pytest.warns(DeprecationWarning, match="odd"):
            assert main(["evaluate", "test.parquet", *SCORES, "--json"]) == 0

    def test_criterion_weight_where_classes(self, capsys):
        frame = table().append_column("w", [np.r_[np.ones(500), np.zeros(500)]])
        pq.write_table(frame, "w.parquet")
        first = table().slice(0, 500)
        pq.write_table(first, "first.parquet")
        fits = {}
        for name, arguments in {
            "weight": ("w.parquet", "--weight", "w"),
            "where": ("w.parquet", "--where", "w > 0"),
            "first": ("first.parquet",),
        }.items():
            succeed(capsys, "fit", *arguments, *SCORES, "-o", "cal.json", "--criterion", "brier")
            fits[name] = focalcal.load("cal.json")
        assert fits["where"].temperature_ == fits["first"].temperature_
        assert fits["weight"].temperature_ == pytest.approx(fits["first"].temperature_, rel=1e-4)
        assert fits["first"].criterion == "brier"
        Path("names.txt").write_text("ant\nbee\n cat, the\n")
        for given, names in [
            ("ant,bee,cat", ["ant", "bee", "cat"]),
            ("names.txt", ["ant", "bee", " cat, the"]),
            ("2,1,0", [2, 1, 0]),
        ]:
            succeed(capsys, "fit", "val.parquet", *SCORES, "--classes", given, "-o", "cal.json")
            assert focalcal.load("cal.json").classes_.tolist() == names
        # a calibrator knows its classes: no need to say them again
        succeed(capsys, "fit", "val.parquet", *SCORES, "--classes", "ant,bee,cat", "-o", "cal.json")
        succeed(capsys, "evaluate", "test.parquet", *SCORES, "--calibrator", "cal.json")
        succeed(
            capsys,
            "apply",
            "cal.json",
            "test.parquet",
            "--logits",
            "z*",
            "-o",
            "o.csv",
            "--predicted",
            "guess",
        )
        assert Path("o.csv").read_text().splitlines()[0] == "id,z0,z1,z2,y,p_ant,p_bee,p_cat,guess"

    @pytest.mark.skipif(not DATA.is_dir(), reason="the real score files are not here")
    @pytest.mark.parametrize("name", ["cifar10_resnet20_akamaster", "imdb_crossval_cleanlab_probs"])
    def test_real_scores(self, capsys, name):
        path = str(DATA / f"{name}.npz")
        succeed(capsys, "fit", path, "--where", "val_mask", "-o", "cal.json")
        test = ("--where", "not val_mask")
        judged = json.loads(succeed(capsys, "evaluate", path, *test, "--calibrator", "cal.json", "--json"))
        before, after = (judged[name]["metrics"] for name in ("before", "after"))
        assert after["nll"]["value"] < before["nll"]["value"]
        assert after["ece"]["high"] < before["ece"]["low"]
        assert after["accuracy"] == before["accuracy"]
        succeed(capsys, "apply", "cal.json", path, *test, "-o", "out.npz")
        written = np.load("out.npz")
        assert len(written["calibrated_probs"]) == judged["n"]
        judged = json.loads(succeed(capsys, "evaluate", "out.npz", "--probs", "calibrated_probs", "--json"))
        assert judged["before"]["metrics"]["nll"]["value"] == pytest.approx(after["nll"]["value"], rel=1e-6)
        succeed(capsys, "report", path, *test, "--calibrator", "cal.json", "-o", "report.html")
        assert f"{judged['n']:,}" in Path("report.html").read_text(encoding="utf-8")


class TestErrors:
    def test_user_errors_are_one_line(self, capsys):
        assert fail(capsys, "fit", "val.parqet", *SCORES, "-o", "c.json").endswith(
            "Did you mean 'val.parquet'?"
        )
        assert "Did you mean" in fail(
            capsys, "fit", "val.parquet", "--logits", "z_0,z1", "--label", "y", "-o", "c.json"
        )
        assert "--label COLUMN" in fail(capsys, "evaluate", "val.parquet", "--logits", "z*")
        assert "--logits 'z*'" in fail(capsys, "evaluate", "val.parquet", "--label", "y")
        message = fail(capsys, "fit", "val.parquet", "--probs", "z*", "--label", "y", "-o", "c.json")
        assert message.startswith("Expected X in [0, 1], got min=-")
        assert message.endswith("If these are logits, pass --logits.")
        assert "Expected where as an SQL condition" in fail(
            capsys, "evaluate", "val.parquet", *SCORES, "--where", "q >"
        )
        assert not Path("c.json").exists()

    def test_wrong_command_lines(self, capsys):
        assert (
            fail(capsys, "fit", "val.parquet") == "Missing option '--output' / '-o'. Try: focalcal fit --help"
        )
        message = fail(capsys, "fit", "val.parquet", *SCORES, "-o", "c", "--method", "q")
        assert message.startswith("Expected method to be one of 'auto', 'fts', 'ts', 'mixed', ")
        assert message.endswith(", 'focal-matrix', got 'q'.")
        message = fail(
            capsys, "fit", "val.parquet", *SCORES, "-o", "c", "--method", "svs", "--criterion", "ece"
        )
        assert message == (
            "Expected no criterion but nll with the method 'svs', got 'ece'. Leave it out, or choose one of "
            "the methods fts, ts."
        )
        assert "No such command 'fits'" in fail(capsys, "fits")
        assert "No such option" in fail(capsys, "evaluate", "val.parquet", "--logit", "z*")

    def test_calibrators(self, capsys):
        succeed(capsys, "fit", "val.parquet", *SCORES, "-o", "cal.json")
        message = fail(capsys, "apply", "cal.json", "probs.parquet", "--probs", "z*", "-o", "o.csv")
        assert message.startswith(
            "Expected logits, which this calibrator was fitted on, got probs. Pass logits"
        )
        message = fail(
            capsys, "evaluate", "probs.parquet", "--probs", "z*", "--label", "y", "--calibrator", "cal.json"
        )
        assert message.startswith("Expected logits, which this calibrator was fitted on, got probs")
        assert "3 classes" in fail(
            capsys, "apply", "cal.json", "test.parquet", "--logits", "z0,z1", "-o", "o.csv"
        )
        Path("bad.json").write_text("{")
        assert "not JSON" in fail(
            capsys, "apply", "bad.json", "test.parquet", "--logits", "z*", "-o", "o.csv"
        )
        assert "none.json" in fail(
            capsys, "apply", "none.json", "test.parquet", "--logits", "z*", "-o", "o.csv"
        )
        assert not Path("o.csv").exists()

    def test_columns_listed_in_another_order_than_in_the_fit(self, capsys):
        pq.write_table(
            pa.table({"ant": [2.0, 0, 1], "dog": [0.0, 1, 2], "y": ["ant", "dog", "ant"]}), "a.parquet"
        )
        succeed(capsys, "fit", "a.parquet", "--logits", "ant,dog", "--label", "y", "-o", "cal.json")
        wrong = ("--logits", "dog,ant")
        message = fail(capsys, "evaluate", "a.parquet", *wrong, "--label", "y", "--calibrator", "cal.json")
        assert "calibrator's order of classes, ant, dog" in message
        assert fail(capsys, "apply", "cal.json", "a.parquet", *wrong, "-o", "o.csv") == message

    def test_probabilities_declared_as_logits_are_taken_at_the_users_word(self, capsys):
        succeed(capsys, "fit", "probs.parquet", *SCORES, "-o", "cal.json")
        assert focalcal.load("cal.json").input == "logits"

    def test_a_failure_keeps_the_files_there_are(self, capsys):
        for name in ("cal.json", "r.html", "o.csv"):
            Path(name).write_text("precious")
        before = sorted(os.listdir())
        fail(capsys, "fit", "val.parquet", "--probs", "z*", "--label", "y", "-o", "cal.json")
        fail(capsys, "report", "val.parquet", "--probs", "z*", "--label", "y", "-o", "r.html")
        fail(capsys, "apply", "cal.json", "val.parquet", "--logits", "z*", "-o", "o.csv")
        assert sorted(os.listdir()) == before
        assert {Path(name).read_text() for name in ("cal.json", "r.html", "o.csv")} == {"precious"}

    def test_bugs_keep_their_traceback(self, monkeypatch):
        monkeypatch.setattr(jobs, "find_scores", lambda *_, **__: np.ones(2) + np.ones(3))
        with pytest.raises(ValueError, match="could not be broadcast"):
            main(["evaluate", "val.parquet", *SCORES])

    def test_a_missing_extra_says_what_to_install(self, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "duckdb", None)
        assert "pip install 'focalcal[data]'" in fail(capsys, "evaluate", "val.parquet", *SCORES)


INTERRUPTED = """
import sys, time
import focalcal.calibrators.temperature.temperature as t, focalcal.io.sinks
focalcal.io.sinks.BATCH_ELEMENTS = 256
first = t.FocalTemperatureScaling.transform
def transform(self, X):
    if hasattr(self, "seen"):
        print("ready", flush=True)
        for _ in range(600):  # the kernel may hand a signal to another thread: one long sleep would sleep on
            time.sleep(0.1)
    self.seen = True
    return first(self, X)
t.FocalTemperatureScaling.transform = transform
from focalcal.cli import main
sys.exit(main())
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_apply_leaves_the_output_as_it_was(capsys, stop):
    succeed(capsys, "fit", "val.parquet", *SCORES, "-o", "cal.json")
    Path("out.parquet").write_text("precious")
    before = sorted(os.listdir())
    command = ["apply", "cal.json", "test.parquet", "--logits", "z*", "-o", "out.parquet"]
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        assert len(os.listdir()) == len(before) + 1
        process.send_signal(stop)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert sorted(os.listdir()) == before
    assert Path("out.parquet").read_text() == "precious"


def test_a_closed_pipe_is_no_error():
    command = f"'{sys.executable}' -m focalcal evaluate test.parquet --logits 'z*' --label y --json | true"
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert ran.stderr == ""


class TestHelp:
    def test_version_and_no_arguments(self, capsys):
        line = f"focalcal {focalcal.__version__}, row loops: {focalcal.kernels.describe()}\n"
        assert succeed(capsys, "--version") == line
        assert succeed(capsys) == succeed(capsys, "--help")
        ran = subprocess.run([sys.executable, "-m", "focalcal", "--version"], capture_output=True, text=True)
        assert (ran.returncode, ran.stdout) == (0, line)

    def commands(self):
        return typer.main.get_command(cli.app).commands

    def test_every_command_and_option_says_what_it_is(self):
        commands = self.commands()
        assert sorted(commands) == sorted(
            [
                *("fit", "apply", "export", "evaluate", "report", "compare", "test"),
                *("curvature", "reproduce", "explore", "figures", "demo"),
            ]
        )
        for command in commands.values():
            assert command.help
            for parameter in command.params:
                assert len(parameter.help) > 10, (command.name, parameter.name)

    def test_every_command_shows_an_example_that_parses(self, capsys):
        for name, command in self.commands().items():
            lines = [line.strip() for line in succeed(capsys, name, "--help").splitlines()]
            examples = [line for line in lines if line.startswith("focalcal ")]
            assert examples
            for example in examples:
                program, used, *arguments = shlex.split(example)
                assert (program, used) == ("focalcal", name)
                command.make_context(name, arguments)


def test_export_writes_a_model_that_a_runtime_reads(capsys):
    runtime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime to run the exported model")
    fitted = focalcal.TemperatureScaling().fit([[4.0, 0.0]] * 4, [0, 0, 0, 1])
    fitted.save("cal.json")
    told = succeed(capsys, "export", "cal.json", "-o", "cal.onnx")
    assert told == "Wrote cal.onnx: from logits to log_probs, probs\n"
    log_probs, probs = runtime.InferenceSession("cal.onnx").run(None, {"logits": np.float32([[4, 0]])})
    np.testing.assert_allclose(probs, [[0.75, 0.25]], rtol=1e-6)
    np.testing.assert_allclose(log_probs, np.log(probs), rtol=1e-6)
    again = json.loads(
        succeed(capsys, "export", "cal.json", "-o", "cal.onnx", "--dtype", "float64", "--json")
    )
    assert (again["inputs"], again["outputs"]) == (["logits"], ["log_probs", "probs"])


def test_export_takes_what_is_chosen_by_itself(capsys):
    runtime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime to run the exported model")
    logits, _ = predictions(100, seed=2)
    for method in ("auto", "focal-matrix"):
        succeed(capsys, "fit", "val.parquet", *SCORES, "-o", "cal.json", "--method", method)
        succeed(capsys, "export", "cal.json", "-o", "cal.onnx")
        _, probs = runtime.InferenceSession("cal.onnx").run(None, {"logits": logits})
        np.testing.assert_allclose(probs, focalcal.load("cal.json").predict_proba(logits), atol=1e-6)


def test_evaluate_by_a_column(capsys):
    names = np.array(["de", "[en]", None], dtype=object)[np.arange(1000) % 3]
    rows = table(seed=1).append_column("language", [names.tolist()])
    pq.write_table(rows, "test.parquet")
    succeed(capsys, "fit", "val.parquet", *SCORES, "-o", "cal.json")
    options = ("test.parquet", *SCORES, "--calibrator", "cal.json", "--by", "language")
    found = json.loads(succeed(capsys, "evaluate", *options, "--json"))
    assert {one["segment"]: one["n"] for one in found["segments"]} == {"de": 334, "[en]": 333, None: 333}
    out = succeed(capsys, "evaluate", *options)
    for one in found["segments"]:
        line = next(line for line in out.splitlines() if line.startswith(one["segment"] or "(none)"))
        for name in ("before", "after"):
            assert f"{one[name]['nll']['value']:.4f} [{one[name]['nll']['low']:.4f}, " in line
            assert f"{one[name]['ece']['value']:.4f} [{one[name]['ece']['low']:.4f}, " in line
    ends = [one["after"]["ece"]["low"] for one in found["segments"]]
    assert ends == sorted(ends, reverse=True)
    reported = json.loads(succeed(capsys, "report", *options, "-o", "r.html", "--json"))
    assert reported["segments"] == found["segments"]
    page = Path("r.html").read_text(encoding="utf-8")
    assert "By <bdi>language</bdi></h2>" in page
    assert page.index("(none)") > 0
    assert "Expected by to name a column, got 'nope'" in fail(
        capsys, "evaluate", "test.parquet", *SCORES, "--by", "nope"
    )


def test_progress_is_silent_without_a_terminal_and_counts_with_one(capsys, monkeypatch):
    with Progress("Working") as progress:
        progress.rows(10)
    assert capsys.readouterr() == ("", "")
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with Progress("Working") as progress:
        progress.rows(12345)
        time.sleep(0.2)
        progress.told("pass 2", 0, 100_000)
        time.sleep(0.2)
        progress.told("pass 2", 40_000, 100_000)
        time.sleep(0.2)
    assert "Working: 12,345 rows" in terminal.getvalue()
    assert re.search(r"Working, pass 2: 40,000 rows, [\d,]+/s, 40 %, \d s left", terminal.getvalue())
