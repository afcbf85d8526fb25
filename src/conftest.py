"""The examples of an adapter need its library."""

from importlib.util import find_spec

collect_ignore = [
    f"focalcal/integrations/{library}.py"
    for library in ("lightning", "torchmetrics")
    if find_spec(library) is None
]
