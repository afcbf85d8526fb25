"""Every block of Python in the guides, and in a section of the README, runs."""

import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

ROOT = Path(__file__).parents[1]


class Network(torch.nn.Linear):
    """Right about most rows from the start: a fit to worse than chance would warn."""

    def __init__(self):
        super().__init__(4, 3)
        with torch.no_grad():
            self.weight.copy_(torch.eye(3, 4) * 3)


class Classifier(Network):
    def forward(self, inputs, labels=None):
        return {"logits": super().forward(inputs)}


def stand_ins():
    """What the guide takes as given: rows of three classes, and networks for them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4)).astype(np.float32)
    y = (x[:, :3] + rng.normal(size=(300, 3))).argmax(axis=1)
    pairs = list(zip(torch.tensor(x), torch.tensor(y), strict=True))
    dicts = [{"inputs": row, "labels": label} for row, label in pairs]
    return {
        "Network": Network,
        "model": Network(),
        "classifier": Classifier(),
        "x": torch.tensor(x),
        "y": y,
        "train_loader": torch.utils.data.DataLoader(pairs[:100], batch_size=50),
        "val_loader": torch.utils.data.DataLoader(pairs[100:], batch_size=50),
        "train_data": dicts[:100],
        "val_data": dicts[100:],
        **{
            "X_train": x[:100],
            "y_train": y[:100],
            "X_val": x[100:200],
            "y_val": y[100:200],
            "X_test": x[200:],
        },
        **{"val_logits": 3 * x[:, :3], "val_labels": y},
    }


def blocks(path, section=""):
    """Return the blocks of a page, or of a section, moved down to their lines in it."""
    page = path.read_text(encoding="utf-8")
    first = page.index(section)
    last = page.find("\n## ", first + len(section)) if section else len(page)
    found = re.finditer(r"^```python\n(.*?)^```", page[first:last], flags=re.MULTILINE | re.DOTALL)
    return ["\n" * page[: first + one.start(1)].count("\n") + one[1] for one in found]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")
@pytest.mark.parametrize(
    ("page", "section"),
    [
        ("docs/training.md", ""),
        ("docs/geometry.md", ""),
        ("docs/choosing.md", ""),
        ("README.md", "## Training\n"),
    ],
)
def test_the_blocks_run(page, section, tmp_path, monkeypatch):
    for library in (
        "lightning", "transformers", "accelerate", "torchmetrics", "xgboost", "lightgbm", "tensorboard",
        "safetensors", "onnx", "matplotlib",
    ):  # fmt: skip
        pytest.importorskip(library, reason=f"pip install {library} to run the guide")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = stand_ins()
    found = blocks(ROOT / page, section)
    assert len(found) >= 1
    for block in found:
        exec(compile(block, page, "exec"), names)
