"""Paths in and out: which files a pattern means, what their suffix says, and writing without half a file."""

from __future__ import annotations

import difflib
import glob
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

SUFFIXES = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".npz": "npz",
    ".npy": "npy",
}


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key under which z10 follows z9.

    Examples
    --------
    >>> sorted(["z10", "z9", "a"], key=natural_key)
    ['a', 'z9', 'z10']
    """
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def did_you_mean(wanted: str, names: Iterable[str]) -> str:
    """Return a sentence naming the closest of `names`, or nothing."""
    matcher = difflib.SequenceMatcher(b=wanted.casefold())
    likeness = {}
    for name in names:
        matcher.set_seq1(name.casefold())
        likeness[name] = matcher.ratio()
    enough = max(0.6, max(likeness.values(), default=0) - 0.05)
    close = sorted((name for name in likeness if likeness[name] >= enough), key=lambda name: -likeness[name])
    return f" Did you mean {' or '.join(map(repr, close[:3]))}?" if close else ""


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is an address such as s3://bucket/x.parquet, which DuckDB opens."""
    return re.match(r"[a-z][a-z0-9+.-]+://", os.fspath(path)) is not None


def escaped(path: str) -> str:
    """Return a path as a pattern that matches nothing but it; what a web server is asked for stays."""
    return path if path.startswith(("http://", "https://")) else glob.escape(path)


def format_of(path: str | os.PathLike[str]) -> str:
    """Return "parquet", "csv", "npz" or "npy", as the suffix says."""
    name = os.fspath(path).lower()
    if is_remote(name):
        name = name.split("?")[0] if name.startswith("http") else name
    for suffix, kind in SUFFIXES.items():
        if name.endswith(suffix):
            return kind
    raise ValueError(f"Expected a file ending in {', '.join(SUFFIXES)}, got {os.fspath(path)!r}.")


def find_paths(path: str | os.PathLike[str]) -> list[str]:
    """Return the files that a path or a glob pattern means, in natural order; all of one format."""
    text = os.fspath(path)
    if is_remote(text):
        format_of(text)
        return [text]
    if os.path.isdir(text):
        raise ValueError(f"Expected a file, got the folder {text!r}. Pass a pattern, e.g. {text}/*.parquet.")
    if os.path.exists(text):
        paths = [text]
    else:
        paths = sorted(filter(os.path.isfile, glob.glob(text, recursive=True)), key=natural_key)
    if not paths:
        folder = Path(text).parent
        names = os.listdir(folder) if folder.is_dir() else []
        kind = "a file matching" if glob.has_magic(text) else "the file"
        raise FileNotFoundError(
            f"Expected {kind} {text!r}, got none: it does not exist.{did_you_mean(Path(text).name, names)}"
        )
    kinds = sorted({format_of(found) for found in paths})
    if len(kinds) > 1:
        raise ValueError(f"Expected files of one format in {text!r}, got {' and '.join(kinds)}.")
    if len(paths) > 1 and kinds[0] in ("npz", "npy"):
        raise ValueError(
            f"Expected one .{kinds[0]} file, got {len(paths)} for {text!r}. "
            "Only parquet and CSV files can be read together: pass them one by one."
        )
    for found in paths:
        if os.path.getsize(found) == 0:
            raise ValueError(f"Expected a table in {found!r}, got an empty file (0 bytes).")
    return paths


@contextmanager
def written_aside(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yield a temporary name beside `path`; move it onto `path` on success, remove it on any failure.

    An output that exists stays as it was until the new one is complete, also upon Ctrl-C.
    """
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    if os.path.isdir(target):
        raise ValueError(f"Expected a file name to write to, got the folder {os.fspath(path)!r}.")
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"Expected the folder {folder!r} to write {name!r} in, got none. Create it.")
    handle, aside = tempfile.mkstemp(dir=folder, prefix=".focalcal-", suffix="-" + name[-100:])
    os.close(handle)
    try:
        yield aside
        os.chmod(aside, os.stat(target).st_mode & 0o777 if os.path.exists(target) else 0o666 & ~_umask())
        os.replace(aside, target)
    except BaseException:
        os.unlink(aside)
        raise


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
