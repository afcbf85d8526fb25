"""Whether logits are piecewise linear in each parameter tensor: then the Hessian has the GGN's trace.

Read off the graph of one batch: every operation between a parameter and the logits must be linear, piecewise
linear, or a product of factors of which at most one depends on that parameter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import Tensor

#: Names of operations without their "Backward0": linear ones, and those that are linear in pieces.
_LINEAR = re.compile(
    "AccumulateGrad|T|Permute|Transpose|Movedim|View|UnsafeView|Reshape|ReshapeAlias|Expand|Squeeze|Unsqueeze|"
    "Slice|Select|Index|IndexSelect|Gather|Cat|Stack|Split|SplitWithSizes|UnsafeSplit|Chunk|Unbind|Clone|"
    "ToCopy|Alias|Copy|AsStrided|Unfold|Im2Col|Col2Im|Repeat|Roll|Flip|ConstantPadNd|ReflectionPad2D|"
    "ReplicationPad2D|PixelShuffle|UpsampleNearest2D|UpsampleBilinear2D|Embedding|EmbeddingBag|MaskedFill|"
    "Add|Sub|Neg|Sum|Mean|Cumsum|(Mkldnn)?(Adaptive)?AvgPool[123]D|"
    "Where|Relu|LeakyRelu|Threshold|Hardtanh|Clamp|ClampMin|ClampMax|Abs|Max|Amax|Min|Amin|Maximum|Minimum|"
    "(Adaptive)?MaxPool[23]D(WithIndices)?|Sort|Topk"
)

#: Products: linear in each factor.
_PRODUCTS = re.compile(
    "Mul|Mm|Bmm|Mv|Dot|Addmm|Baddbmm|Addbmm|Addmv|Bilinear|Div|(Mkldnn)?(Linear|Convolution)|"
    "(Native|Cudnn)?BatchNorm|NativeBatchNormLegitNoTraining|PreluKernel"
)


def curved_operation(logits: Tensor, parameters: Iterable[Tensor]) -> str | None:
    """Return the name of an operation that bends the logits along a single parameter tensor, or None.

    Parameters
    ----------
    logits : Tensor
        With the graph of a batch, in eval mode.
    parameters : iterable of Tensor
        What the logits are taken as a function of.

    Notes
    -----
    What is not known to be linear counts as curved.
    """
    wanted = {id(tensor): i for i, tensor in enumerate(parameters)}
    above: dict[Any, frozenset[int]] = {}  # which parameters a node depends on
    for node in _inputs_first(logits.grad_fn):
        if hasattr(node, "variable"):
            above[node] = frozenset({wanted[id(node.variable)]} if id(node.variable) in wanted else ())
            continue
        factors = [above[edge] for edge, _ in node.next_functions if edge is not None]
        found = frozenset().union(*factors)
        name = node.name().rsplit("::")[-1]
        kind = re.sub(r"Backward\d*$", "", name)
        shared = len(found) < sum(map(len, factors))
        divides = kind == "Div" and len(factors) > 1 and bool(factors[1])
        coupled = getattr(node, "_saved_training", False)  # BatchNorm that divides by the batch's own spread
        product = _PRODUCTS.fullmatch(kind) and not (shared or divides or coupled)
        if found and not (_LINEAR.fullmatch(kind) or product):
            return str(name)
        above[node] = found
    return None


def _inputs_first(last: Any) -> list[Any]:
    """Return the nodes of a graph, each after those that it is computed from."""
    done: dict[Any, None] = {}
    stack = [(last, False)] if last is not None else []
    while stack:
        node, ready = stack.pop()
        if node in done:
            continue
        if ready:
            done[node] = None
            continue
        stack.append((node, True))
        stack.extend((edge, False) for edge, _ in node.next_functions if edge is not None)
    return list(done)
