"""The examples of what needs an optional library are left out without it."""

from importlib.util import find_spec

collect_ignore = [
    f"focalcal/integrations/{library}.py"
    for library in ("lightning", "torchmetrics")
    if find_spec(library) is None
]
collect_ignore_glob = (
    [] if find_spec("torch") else ["focalcal/nn/*", "focalcal/curvature/*", "focalcal/experiments/*"]
)
