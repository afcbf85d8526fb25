"""The page of the study in a real browser, its tables and drawings, and what it says of which numbers."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")
pytest.importorskip("jinja2", reason="jinja2 is an optional extra: pip install 'focalcal[plot]'")

from focalcal.experiments.over_seeds import OverSeeds  # noqa: E402
from focalcal.experiments.pages.write import Figure, Section, Table, write_page  # noqa: E402
from focalcal.experiments.recipes import published, small  # noqa: E402
from focalcal.experiments.scaling.claims import Claim, cells  # noqa: E402
from focalcal.experiments.scaling.methods import METHODS, METRICS  # noqa: E402
from focalcal.experiments.scaling.page import fts_page  # noqa: E402
from focalcal.experiments.scaling.sections import published_section  # noqa: E402
from focalcal.experiments.scaling.stand_ins import read_stand_in  # noqa: E402
from focalcal.experiments.scaling.study import VERSION, fitted  # noqa: E402
from focalcal.experiments.scaling.words import headline, sentence, value  # noqa: E402
from focalcal.experiments.sweep import Sweep  # noqa: E402
from focalcal.reporting.svg import element, picture  # noqa: E402

HOSTILE = "<img src=x onerror=\"document.title='run'\"> | `a` &amp; </style>"

ALL = [name for name in METHODS if name != "grid"] + [f"FTS {c}, grid" for c in ("nll", "brier", "ece")]


def told(recipe, seed):
    """What a study of a run holds, of numbers that nobody fitted."""
    rng = np.random.default_rng(seed)
    found = {}
    for name in ALL:
        metrics = {metric: float(rng.uniform(0.1, 0.2)) for metric in METRICS}
        names = {"F": ("temperature", "gamma"), "T": ("temperature", "share")}.get(name[0], ())
        found[name] = {"metrics": metrics, "parameters": {key: float(rng.uniform(0.5, 2)) for key in names}}
    versions = {"focalcal": "0.1.0", "torch": "2.13.0"}
    run = {"recipe": recipe.to_dict(), "seconds": 60.0, "device": "cpu", "machine": "x86_64"}
    return {
        "version": VERSION,
        "methods": list(METHODS),
        "measures": list(METRICS),
        "run": run | {"versions": versions, "processes": 1},
        "rows": {"validation": 5, "test": 5},
        "classes": 3,
        "accuracy": 0.5,
        "found": found,
    }


def stand_in(path, n=80):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(n, 3))
    y = (z + rng.gumbel(size=z.shape)).argmax(1)
    np.savez(path, logits=(3 * z).astype(np.float32), labels=y, val_mask=np.arange(n) < n // 2)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A sweep of hostile names, judged, with its page."""
    folder = tmp_path_factory.mktemp("fts")
    sweep, losses = Sweep(folder), ("ce", "focal-3", "adafocal")
    kinds = [(HOSTILE, "small_cnn"), ("digits", "mlp")]
    recipes = [small(*kind, loss, seed) for kind in kinds for loss in losses for seed in range(3)]
    recipes = [replace(recipe, penalty=0.001 * (recipe.loss == "focal-3")) for recipe in recipes]
    sweep.add(recipes)
    for i, recipe in enumerate(recipes):
        place = folder / recipe.key
        place.mkdir()
        held = told(recipe, i)
        (place / "fts.json").write_text(json.dumps(held))
        (place / "run.json").write_text(json.dumps(held["run"]))
        sweep.close(recipe.key, "done")
    scores = stand_in(folder / "x'<b>y.npz")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fitted, "__defaults__", (("raw", "TS nll", "FTS nll", "TS ece", "FTS ece"),))
        fts_page(
            folder, profile="small", command=f"focalcal reproduce fts --data '{HOSTILE}'", scores=[scores]
        )
    return folder


VIEWS = {
    "light": {},
    "dark": {"dark": True},
    "phone": {"width": 360, "height": 640, "has_touch": True, "is_mobile": True},
}


@pytest.mark.parametrize("view", VIEWS)
def test_the_page_opens_anywhere(folder, browser, view):
    with browser.open(folder / "fts.html", **VIEWS[view]) as page:
        assert page.title().startswith("Focal temperature scaling against")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.locator("img, script, b b").count() == 0
        assert page.locator("svg").count() == 4 + 2 + 4
        assert page.get_by_text("<img src=x").count() > 0


def test_the_page_shows_the_numbers(folder, browser):
    held = json.loads((folder / "fts.json").read_text())
    assert len(held["settings"]) == 6
    main = [one for one in held["claims"] if one["rival"] == "TS " + one["method"].partition(" ")[2]]
    with browser.open(folder / "fts.html") as page:
        rows = page.locator("table").first.locator("tbody tr").all_inner_texts()
        words = page.locator("header").inner_text()
    assert len(rows) == len(main) == 12
    short = (folder / "fts.md").read_text()
    for row, one in zip(rows, main, strict=True):
        assert one["below"] + one["above"] + one["open"] == len(one["cells"]) == 4
        mean = value(one["pooled"]["value"], one["metric"], signed=True)
        low, high = (value(one["pooled"][end], one["metric"], signed=True) for end in ("low", "high"))
        counts = [str(one[side]) for side in ("below", "above", "open")]
        assert row.split()[-3 - 4 : -4] == counts
        assert row.split()[-4:] == [mean, low, "to", high]
        assert f"| {' | '.join(counts)} | {mean} ({low} to {high}) |" in short
    first = main[0]
    assert value(first["pooled"]["value"], "nll", signed=True) in words
    assert f"in {first['below']} of 4 settings" in words
    assert "On top of AdaFocal" in words


def test_what_was_run_is_told(folder, browser):
    with browser.open(folder / "fts.html") as page:
        facts = page.locator("dl.facts").inner_text()
    for words in ("0.30", "18 of 18", "0, 1, 2", "20 epochs of SGD", "torch 2.13.0", "logical cores"):
        assert words in facts


def test_markdown_has_no_tag(folder):
    lines = (folder / "fts.md").read_text().splitlines()
    assert not [line for line in lines if "<" in line.replace("\\<", "") and "focalcal reproduce" not in line]
    widths = {line.replace("\\|", "").count("|") for line in lines if line.startswith("| ")}
    assert widths == {6, 8, 7, 4, 10}


def test_drawings_stand_alone(folder):
    drawings = sorted(folder.glob("fts-*.svg"))
    assert len(drawings) == 10
    for path in drawings:
        root = ElementTree.parse(path).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root[0].tag.endswith("style")
    marks = (folder / "fts-difference-nll.svg").read_text()
    assert marks.count("<circle") == 2 * 4


def test_a_page_of_its_own(tmp_path, browser):
    figure = Figure(
        "one", "A circle", picture(9, 9, [element("circle", cx=4, cy=4, r=3, class_="full")], "a")
    )
    table = Table("Values", ("a", "b"), [["x", ("1", "0 to 2")], ["y", "2"]], folded=True)
    section = Section("Part", ["Text."], [table], [figure], ["make test"])
    path = write_page(tmp_path / "own.html", "Own", ["It holds."], [section], {"Runs": "3"})
    with browser.open(path) as page:
        assert page.locator(".verdict").inner_text() == "It holds."
        assert not page.get_by_role("table").is_visible()
        page.get_by_text("Values").first.click()
        assert page.locator("td").all_inner_texts() == ["1\n0 to 2", "2"]
    assert (tmp_path / "own-one.svg").is_file()
    assert "| x | 1 (0 to 2) |" in (tmp_path / "own.md").read_text()


def claimed(*cells):
    each = [(("digits", "mlp", f"focal-{i}"), OverSeeds(*one, 5)) for i, one in enumerate(cells)]
    return Claim("FTS nll", "TS nll", "nll", each, each[0][1])


def test_the_verdict_follows_the_numbers():
    below, above, unsure = (-0.02, -0.03, -0.01), (0.02, 0.01, 0.03), (0.01, -0.01, 0.03)
    words = headline(claimed(below, above, unsure))
    assert words.startswith("Focal temperature scaling beats temperature scaling by log loss, on average: ")
    assert "−0.0200 nats [−0.0300 to −0.0100], the median setting's +0.0100;" in words
    assert words.endswith("lower beyond its interval in 1 of 3 settings, and higher in 1.")
    assert "loses to" in headline(claimed(above, below))
    assert headline(claimed(unsure, unsure)).startswith("Log loss does not tell")
    assert "not told apart in 1" in sentence(claimed(below, unsure))
    assert "[one run]" in sentence(claimed((0.1, np.nan, np.nan)))


def test_published_numbers_stand_beside_ours():
    runs = [
        (recipe, told(recipe, seed))
        for seed in range(2)
        if (recipe := published("cifar10", "resnet50", "ce", seed))
    ]
    (table,) = published_section(cells(runs)).tables
    (row,) = table.rows
    ours = np.mean([one["found"]["TS ece"]["metrics"]["ece, equal width"] for _, one in runs])
    assert row[:3] == [("ce", "cifar10, resnet50"), "4.35", "1.35 (2.5)"]
    assert row[4][0] == f"{100 * ours:.2f}"
    recipe = small("cifar10", "resnet50", "ce")
    section = published_section(cells([(recipe, told(recipe, 0))]))
    assert "No setting of this profile" in section.paragraphs[-1]
    assert len(section.tables[0].rows) == 40


def test_a_sweep_without_runs_has_no_page(tmp_path):
    with pytest.raises(ValueError, match="Expected a finished run"):
        fts_page(tmp_path, profile="small", command="")


def test_stand_ins_are_read_or_refused(tmp_path):
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1, 1], 6)
    held = {"probs": p, "labels": np.arange(6) % 3, "val_mask": np.arange(6) < 4}
    np.savez(tmp_path / "a.npz", **held)
    scores = read_stand_in(tmp_path / "a.npz")
    np.testing.assert_allclose(np.exp(scores.test_logits), p[4:], rtol=1e-5)
    assert list(scores.val_labels) == [0, 1, 2, 0]
    np.savez(tmp_path / "b.npz", labels=held["labels"], val_mask=held["val_mask"])
    with pytest.raises(ValueError, match="Expected arrays logits or probs"):
        read_stand_in(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", **held | {"val_mask": np.ones(6, bool)})
    with pytest.raises(ValueError, match="not all the same"):
        read_stand_in(tmp_path / "c.npz")
