"""Calibrators as small JSON files with a schema version; nothing is ever unpickled."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

#: A list of numbers over several lines; a text in JSON has no line's end in it.
_NUMBERS = re.compile(r"\[\n([-+.,\w\s]+)\]")

#: Raised whenever a file of the older kind could be read wrongly.
SCHEMA = 1

_KEYS = {
    "schema": int,
    "calibrator": str,
    "input": str,
    "classes": list,
    "parameters": dict,
    "stderr": dict,
    "n_fit": int,
    "settings": dict,
    "diagnostics": dict,
    "version": str,
}


def write(artefact: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write an artefact aside and rename it, so that no half-written file can be read."""
    target = Path(path)
    text = json.dumps(artefact, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    text = _NUMBERS.sub(lambda found: "[" + " ".join(found[1].split()) + "]", text)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def plain(value: Any) -> Any:
    """Return a number or an array as JSON holds it: None where it is not finite."""
    if isinstance(value, np.ndarray):
        return [plain(one) for one in value] if value.ndim else plain(value.item())
    return float(value) if math.isfinite(value) else None


def value(plain: Any) -> Any:
    """Return the number or float64 array that `plain` wrote."""
    if isinstance(plain, list):
        return np.array(plain, dtype=np.float64)
    return math.nan if plain is None else float(plain)


class Parameter(NamedTuple):
    """A parameter as people read it: a number with its standard error, or the size of a table of numbers."""

    name: str
    value: float | None
    stderr: float | None
    size: str
    given: bool = False

    def error(self, form: str) -> str:
        """Return the standard error of a number in a format, or in a word why there is none."""
        if self.value is None:
            return ""
        if self.stderr is None:
            return "given" if self.given else "unknown"
        return format(self.stderr, form)


def parameters(artefact: Mapping[str, Any]) -> list[Parameter]:
    """Return an artefact's parameters as people read them; a table of a single number is that number.

    Examples
    --------
    >>> for found in parameters({"parameters": {"slope": [1.5], "edges": [[0, 1, 2]] * 4}, "stderr": {}}):
    ...     print(found.name, found.value, found.size)
    slope 1.5 1
    edges None 4 × 3 numbers
    >>> parameters({"parameters": {"share": 0.1}, "stderr": {}, "settings": {"share": 0.1}})[0].error(".2g")
    'given'
    """
    found = []
    for name, entry in artefact["parameters"].items():
        table = np.array(entry, dtype=np.float64)
        stderr = np.array(artefact["stderr"].get(name), dtype=np.float64)  # None becomes NaN
        single = table.size == 1
        known = single and stderr.size == 1 and bool(np.isfinite(stderr).all())
        size = " × ".join(map(str, table.shape)) + " numbers"
        value, error = (float(table.item()) if single else None), (float(stderr.item()) if known else None)
        given = artefact.get("settings", {}).get(name) is not None
        found.append(Parameter(name, value, error, "1" if single else size, given))
    return found


def _is_finite(found: Any) -> bool:
    """Say whether a number, or every one in a table of numbers, is finite."""
    if isinstance(found, list):
        lengths = {len(one) if isinstance(one, list) else None for one in found}
        return len(lengths) == 1 and all(map(_is_finite, found))
    return not isinstance(found, bool) and isinstance(found, (int, float)) and math.isfinite(found)


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read an artefact and check everything that does not depend on the kind of calibrator."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected a calibrator's JSON in {path}, got no such file. Fit one first.")
    try:
        artefact = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"Expected a calibrator's JSON in {path}, got text that is not JSON: {error}."
        ) from error
    if not isinstance(artefact, dict) or "schema" not in artefact or "calibrator" not in artefact:
        raise ValueError(f"Expected a calibrator saved by focalcal in {path}, got other JSON.")
    if artefact["schema"] != SCHEMA:
        raise ValueError(
            f"Expected schema version {SCHEMA} in {path}, got {artefact['schema']!r}. "
            "Read it with the focalcal version that wrote it, or fit again."
        )
    for key, kind in _KEYS.items():
        if not isinstance(artefact.get(key), kind) or (kind is int and isinstance(artefact[key], bool)):
            got = type(artefact.get(key)).__name__
            raise ValueError(f"Expected {key} as {kind.__name__} in {path}, got {got}: the file is damaged.")
    for name, found in artefact["parameters"].items():
        if not _is_finite(found):
            raise ValueError(f"Expected a finite {name} in {path}, got {str(found)[:80]}. Fit again.")
    classes = artefact["classes"]
    if len(classes) < 2 or len({(type(c), c) for c in classes if isinstance(c, (str, int))}) != len(classes):
        raise ValueError(
            f"Expected at least two different classes (text or integers) in {path}, got {classes}."
        )
    return artefact
