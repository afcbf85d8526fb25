"""The explorer's file: what it holds of predictions, how much of them, and that no name can break it."""

import base64
import json
import os
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest

import focalcal
from focalcal import FocalTemperatureScaling, TemperatureScaling, evaluate, explore, explorer, focal_map
from focalcal.cli import main
from focalcal.explorer import embedding
from focalcal.explorer.embedding import embed, safe_json
from focalcal.rows import as_rows
from predictions import draw, softmax

HOSTILE = "</script><script>alert(1)</script><!-- \u2028\u2029 ]]> {{ script }} \\'\"&.parquet"


def held(path):
    """What the page's script would read."""
    (data,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', path.read_text("utf-8"), flags=re.DOTALL
    )
    return json.loads(data)


def floats(text):
    return np.frombuffer(base64.b64decode(text), "<f4")


def embedded(z, y, weight=None, kind="logits", limit=5000, seed=0):
    return embed(as_rows(z, y, weight, kind, None)[0], limit, seed)


class TestPage:
    def test_one_file_that_asks_for_nothing(self, tmp_path):
        path = explore(tmp_path / "e.html")
        text = path.read_text("utf-8")
        assert text.startswith("<!doctype html>")
        assert held(path) is None
        assert set(re.findall(r"\w+://\S+", text)) == {'http://www.w3.org/2000/svg";'}  # a name, no address
        assert not re.search(r"<(link|iframe|object|embed|img)\b|@import|url\(|\{\{", text.split("<body>")[0])
        assert len(text) < 100_000

    def test_only_its_own_script_and_style_may_run(self, tmp_path):
        import hashlib

        text = explore(tmp_path / "e.html").read_text("utf-8")
        (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        for tag in ("script", "style"):
            (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in policy
        assert not re.search(r' (style|on\w+)="', text.split("<script>")[0])

    def test_hostile_names_stay_text(self, tmp_path):
        z, y = draw(50, 3)
        path = explore(tmp_path / "e.html", y, z, input="logits", name=HOSTILE)
        text = path.read_text("utf-8")
        assert held(path)["name"] == HOSTILE
        assert text.count("<script") == 2
        assert text.count("</script>") == 2
        assert "\u2028" not in text
        plain = explore(tmp_path / "plain.html").read_text("utf-8")
        assert text.split("<script>")[1] == plain.split("<script>")[1]

    def test_json_in_a_script_element(self):
        text = safe_json({"a": HOSTILE})
        assert "<" not in text
        assert text.isascii()
        assert json.loads(text) == {"a": HOSTILE}

    def test_the_same_page_twice(self, tmp_path):
        z, y = draw(300, 4)
        pages = [explore(tmp_path / name, y, z, input="logits", rows=100).read_bytes() for name in "ab"]
        assert pages[0] == pages[1]
        assert explore(tmp_path / "c", y, z, input="logits", rows=100, seed=1).read_bytes() != pages[0]

    def test_a_failure_leaves_the_old_file_and_no_other(self, tmp_path, monkeypatch):
        path = tmp_path / "e.html"
        path.write_text("old")
        with pytest.raises(ValueError, match="Expected y_prob in"):
            explore(path, [0, 1], [[2.0, 0.0], [0.0, 3.0]])
        monkeypatch.setattr(
            "pathlib.Path.write_text", lambda *_, **__: (_ for _ in ()).throw(OSError("full"))
        )
        with pytest.raises(OSError, match="full"):
            explore(path)
        monkeypatch.undo()
        assert [p.name for p in tmp_path.iterdir()] == ["e.html"]
        assert path.read_text() == "old"

    def test_every_part_is_shipped_and_short(self):
        folder = os.path.dirname(explorer.__file__)
        files = {name for name in os.listdir(folder) if name.endswith((".js", ".css", ".html"))}
        assert files == {*explorer.SCRIPTS, "page.css", "template.html"}
        settings = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
        patterns = settings["tool"]["setuptools"]["package-data"]["focalcal"]
        for name in files:
            assert any(fnmatch(f"explorer/{name}", pattern) for pattern in patterns)
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                assert sum(1 for _ in file) < 400

    def test_the_function_is_public(self):
        assert focalcal.explore is explore


class TestEmbedding:
    def test_few_classes_are_kept_as_they_are(self):
        z, y = draw(400, 5)
        found = embedded(z, y)
        below = z - z.max(axis=1, keepdims=True)
        np.testing.assert_allclose(found.expanded(), below, rtol=1e-6)
        np.testing.assert_allclose(found.logits[:, 0], below[np.arange(400), y], rtol=1e-6)
        assert (np.diff(found.logits[:, 1:], axis=1) <= 0).all()
        np.testing.assert_array_equal(found.hits, z.argmax(axis=1) == y)
        assert (found.n, found.whole, found.n_classes, found.weight) == (400, 400, 5, None)

    def test_probabilities_become_their_logarithms(self):
        z, y = draw(100, 3)
        found = embedded(softmax(z), y, kind="probs")
        np.testing.assert_allclose(softmax(found.expanded()), softmax(z), rtol=1e-5)
        binary = embedded(softmax(z[:, :2])[:, 1], y % 2, kind="probs")
        np.testing.assert_allclose(softmax(binary.expanded()), softmax(z[:, :2]), rtol=1e-5)

    @pytest.mark.parametrize("n_classes", [2, 49, 50, 51, 73, 1000])
    def test_every_class_is_in_one_group(self, n_classes):
        z, y = draw(60, n_classes)
        found = embedded(z, y)
        assert found.counts.sum() == n_classes
        assert found.counts.min() == 1
        assert len(found.counts) == min(n_classes, 49)
        np.testing.assert_array_equal(np.sort(found.order, axis=1), np.tile(np.arange(n_classes), (60, 1)))
        # a group's value is the log-mean-exp of its members: the sum over classes is what it was
        np.testing.assert_allclose(
            np.exp(found.expanded()).sum(axis=1),
            np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1),
            rtol=1e-6,
        )

    def test_what_grouping_changes_is_small_and_said(self):
        z, y = draw(3000, 300)
        found = embedded(z, y)
        said = found.to_dict()["off"]
        worst = 0.0
        fits = found.fits().values()
        for fit in ({"temperature": 1.0, "gamma": 0.0}, *fits):
            one, other = (
                evaluate(found.codes, focal_map(s / fit["temperature"], fit["gamma"]), input="logits")
                for s in (found.exact, found.expanded())
            )
            worst = max(worst, abs(one["nll"].value - other["nll"].value))
        assert said["nll"] == pytest.approx(worst, rel=1e-6)
        assert 0 < worst < 0.003
        assert said["ece"] < 0.003
        exact = embedded(*draw(300, 10)).to_dict()["off"]
        assert exact["nll"] < 1e-6

    def test_masked_classes_stay_masked(self):
        z, y = draw(40, 100)
        z[:, 60:] = -np.inf
        few = embedded(z[:, 20:65], y % 40).expanded()
        np.testing.assert_array_equal(np.isneginf(few), np.isneginf(z[:, 20:65]))
        full = embedded(z, y % 60).expanded()  # where the group at the border is shared by both
        assert (np.isneginf(full).sum(axis=1) >= 36).all()
        np.testing.assert_allclose(
            np.exp(full).sum(axis=1), np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1), rtol=1e-6
        )

    @pytest.mark.parametrize(("n_classes", "rows"), [(2, 5000), (40, 5000), (49, 4081), (1000, 4081)])
    def test_the_size_is_bounded(self, n_classes, rows):
        z = np.random.default_rng(0).normal(size=(6000, n_classes)).astype(np.float32)
        found = embedded(z, np.arange(6000) % n_classes)
        assert found.n == rows
        assert found.logits.size <= embedding.NUMBERS
        assert found.whole == 6000

    def test_very_many_classes_mean_fewer_rows(self):
        z = np.random.default_rng(0).normal(size=(800, 20_000)).astype(np.float32)
        assert embedded(z, np.arange(800)).n == 500

    def test_rows_are_drawn_with_their_labels_and_weights(self):
        n = 3000
        z = np.stack([np.arange(n, dtype=float), np.zeros(n)], axis=1)
        y, weight = np.arange(n) % 2, np.arange(n) + 1.0
        found = embedded(z, y, weight, limit=500)
        row = (found.weight - 1).astype(int)
        assert len(set(row)) == 500
        assert (np.diff(row) > 0).all()
        np.testing.assert_array_equal(found.codes, row % 2)
        np.testing.assert_allclose(found.logits.min(axis=1), -row.astype(float))

    def test_fits_are_those_of_the_rows_in_the_page(self):
        z, y = draw(1500, 6, temperature=2)
        weight = np.random.default_rng(1).random(1500)
        found = embedded(z, y, weight, limit=700)
        fits, full = found.fits(), found.expanded()
        ts = TemperatureScaling().fit(full, found.codes, found.weight)
        fts = FocalTemperatureScaling(gamma_bounds=(-1, 10)).fit(full, found.codes, found.weight)
        assert fits["ts"] == {"temperature": ts.temperature_, "gamma": 0.0}
        assert fits["fts"] == {"temperature": fts.temperature_, "gamma": fts.gamma_}
        document = found.to_dict()
        np.testing.assert_array_equal(floats(document["weights"]), found.weight)
        np.testing.assert_array_equal(floats(document["logits"]).reshape(700, 6), found.logits)

    def test_wrong_input_is_said_in_one_sentence(self, tmp_path):
        z, y = draw(20, 3)
        path = tmp_path / "e.html"
        with pytest.raises(ValueError, match=r"^Expected rows to be a whole number >= 1, got 0\.$"):
            explore(path, y, z, input="logits", rows=0)
        with pytest.raises(ValueError, match="Expected y_prob without NaN, got NaN in row 3"):
            explore(path, y, np.where(np.arange(20)[:, None] == 3, np.nan, z), input="logits")
        weight = np.zeros(20)
        weight[7] = 1
        with pytest.raises(ValueError, match="Expected some weight above 0 among the 2 rows drawn"):
            explore(path, y, z, weight, input="logits", rows=2)
        with pytest.raises(ValueError, match="Expected y "):
            explore(path, None, z, input="logits")
        impossible = np.where(np.eye(3)[y] > 0, -np.inf, z)
        with pytest.raises(ValueError, match=r"Expected every label to be possible, got .* -inf in row 0"):
            explore(path, y, impossible, input="logits")
        assert not path.exists()


class TestCommand:
    @pytest.fixture
    def table(self, tmp_path, monkeypatch):
        import pyarrow as pa
        import pyarrow.parquet as pq

        monkeypatch.chdir(tmp_path)
        z, y = draw(9000, 3)
        columns = {f"z{j}": z[:, j].astype(np.float32) for j in range(3)}
        pq.write_table(pa.table({**columns, "y": y, "w": np.arange(9000.0)}), "t.parquet")
        return z, y

    def test_with_and_without_a_table(self, table, tmp_path, capsys):
        assert main(["explore", "-o", "a.html"]) == 0
        assert capsys.readouterr().out == "Wrote a.html: open it in a browser\n"
        options = ["t.parquet", "--logits", "z*", "--label", "y", "--weight", "w", "-o", "b.html"]
        assert main(["explore", *options, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert (document["n"], document["whole"], document["output"]) == (5000, 9000, "b.html")
        data = held(tmp_path / "b.html")
        assert (data["n"], data["name"], len(floats(data["weights"]))) == (5000, "t.parquet", 5000)
        assert main(["explore", *options, "--rows", "10"]) == 0
        assert "The page holds 10 of 9,000 rows" in capsys.readouterr().out

    def test_a_table_that_stays_on_disk(self, table, tmp_path, monkeypatch, capsys):
        z, _ = table
        monkeypatch.setattr("focalcal.io.sources.IN_MEMORY", 0)
        taken = []
        monkeypatch.setattr("focalcal.io.stream.TableRows.in_memory", lambda self: taken.append(self))
        options = ["t.parquet", "--logits", "z*", "--label", "y", "-o", "b.html", "--rows", "50"]
        assert main(["explore", *options]) == 0
        assert taken == []
        data = held(tmp_path / "b.html")
        assert (data["n"], data["whole"]) == (50, 9000)
        below = np.sort(z.astype(np.float32).astype(float), axis=1)
        known = {tuple(row) for row in (below - below[:, -1:]).astype(np.float32)}
        assert {tuple(sorted(row)) for row in floats(data["logits"]).reshape(50, 3)} <= known

    def test_errors(self, table, capsys):
        assert main(["explore", "-o", "a.html", "--logits", "z*"]) == 2
        assert "Expected a table for --logits, got none." in capsys.readouterr().err
        assert main(["explore", "t.parquet", "--logits", "z*", "-o", "a.html"]) == 2
        assert "--label COLUMN" in capsys.readouterr().err
        assert not os.path.exists("a.html")
