"""Calibrators as small JSON files with a schema version; nothing is ever unpickled."""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

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
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


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
    for name, value in artefact["parameters"].items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"Expected a finite {name} in {path}, got {value!r}. Fit again.")
    classes = artefact["classes"]
    if len(classes) < 2 or len({(type(c), c) for c in classes if isinstance(c, (str, int))}) != len(classes):
        raise ValueError(
            f"Expected at least two different classes (text or integers) in {path}, got {classes}."
        )
    return artefact
