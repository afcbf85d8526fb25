"""Run other libraries of curvature on one small net and keep what they return in ``frozen_curvature.json``.

They are not installed with the tests. To make the numbers anew, in an environment of its own:

    pip install torch==2.13.0 PyHessian==0.1 hessian-eigenthings==1.0.0a5 curvlinops-for-pytorch==3.0.1
    python tests/oracles/freeze_curvature.py

Weights and data are closed formulas, so that they are the same wherever they are made.
"""

import importlib.metadata
import json
from pathlib import Path

import numpy as np
import torch

FILE = Path(__file__).with_name("frozen_curvature.json")
LIBRARIES = ("PyHessian", "hessian-eigenthings", "curvlinops-for-pytorch")

#: The last batch is small: whoever averages batches instead of rows gives its rows too much weight.
SIZES = (16, 16, 5)
#: Focal loss is written out here, so that no library needs ours.
LOSSES = ("cross-entropy", "focal")
EIGENVALUES = 5


def waves(*shape):
    """Return numbers in (-1, 1) that follow a formula."""
    return torch.from_numpy(np.sin(np.arange(1, np.prod(shape) + 1) * np.sqrt(2)).reshape(shape))


def problem(dtype=torch.float64):
    """Return a net that is smooth (so that its Hessian is not its GGN), and batches of 16, 16 and 5 rows."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4)).to(dtype)
    flat = 1.5 * waves(sum(p.numel() for p in model.parameters())).to(dtype)
    torch.nn.utils.vector_to_parameters(flat, model.parameters())
    x = 2 * waves(sum(SIZES), 3).to(dtype)
    y = torch.arange(sum(SIZES)) ** 2 % 7 % 4
    return model, list(zip(x.split(SIZES), y.split(SIZES), strict=True))


class Focal(torch.nn.Module):
    """Focal loss with γ = 2, in the plainest way."""

    def __init__(self):
        super().__init__()
        self.reduction = "mean"

    def forward(self, logits, target):
        log_p = logits.log_softmax(1).gather(1, target[:, None])
        rows = -((1 - log_p.exp()) ** 2) * log_p
        return rows.sum() if self.reduction == "sum" else rows.mean()


def loss_of(name):
    return torch.nn.CrossEntropyLoss() if name == "cross-entropy" else Focal()


def size_of(model):
    return sum(p.numel() for p in model.parameters())


def by_columns(product, model):
    """Return a matrix (P, P) from its products with the unit vectors."""
    dtype = next(model.parameters()).dtype
    return torch.stack([product(unit) for unit in torch.eye(size_of(model), dtype=dtype)], 1).double()


def pyhessian_matrix(name):
    from pyhessian import hessian

    model, batches = problem()
    found = hessian(model, loss_of(name), dataloader=batches, cuda=False)

    def product(vector):
        parts = vector.split([p.numel() for p in model.parameters()])
        shaped = [part.view_as(p) for part, p in zip(parts, model.parameters(), strict=True)]
        return torch.cat([part.reshape(-1) for part in found.dataloader_hv_product(shaped)[1]])

    return by_columns(product, model)


def eigenthings_matrix(name, kind="hessian", batched=False):
    from hessian_eigenthings import (
        GGNOperator,
        HessianOperator,
        supervised_forward,
        supervised_loss,
        supervised_loss_of_output,
    )

    model, batches = problem()
    loss = loss_of(name)
    if not batched:
        batches = [tuple(torch.cat(parts) for parts in zip(*batches, strict=True))]
    if kind == "hessian":
        operator = HessianOperator(model, batches, supervised_loss(loss))
    else:
        operator = GGNOperator(model, batches, supervised_forward, supervised_loss_of_output(loss))
    return by_columns(operator.matvec, model)


def curvlinops_matrix(name, kind="hessian"):
    import curvlinops

    model, batches = problem()
    make = {"hessian": curvlinops.HessianLinearOperator, "ggn": curvlinops.GGNLinearOperator}[kind]
    operator = make(model, loss_of(name), list(model.parameters()), batches)
    return (operator @ torch.eye(size_of(model), dtype=torch.float64)).detach()


#: Every matrix of every library that computes it rightly.
MATRICES = {
    ("PyHessian", "hessian"): pyhessian_matrix,
    ("hessian-eigenthings", "hessian"): eigenthings_matrix,
    ("hessian-eigenthings", "ggn"): lambda name: eigenthings_matrix(name, "ggn"),
    ("curvlinops-for-pytorch", "hessian"): curvlinops_matrix,
    ("curvlinops-for-pytorch", "ggn"): lambda name: curvlinops_matrix(name, "ggn"),
}


def summary(matrix):
    """Return what is kept of a matrix: trace, norm, its largest eigenvalues and smallest, one product."""
    values = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    return {
        "trace": float(matrix.trace()),
        "frobenius": float(matrix.norm()),
        "largest": values.flip(0)[:EIGENVALUES].tolist(),
        "smallest": float(values[0]),
        "product": (matrix @ waves(len(matrix))).tolist(),
    }


def freeze():
    """Run every library and return what it found."""
    found = {"versions": {name: importlib.metadata.version(name) for name in LIBRARIES}}
    for name in LOSSES:
        for (library, kind), make in MATRICES.items():
            found[f"{library} {kind} {name}"] = summary(make(name))
        found[f"hessian-eigenthings batched {name}"] = summary(eigenthings_matrix(name, batched=True))
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps(freeze(), indent=1) + "\n")
