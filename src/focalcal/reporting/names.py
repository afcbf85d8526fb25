"""Names that users chose, made fit to be shown: whatever is in them, they stay text and stay short."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

#: Characters of a name that are shown.
LONGEST = 80

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def shown(name: Any) -> str:
    """Return a name for the page: characters that no page may hold are marked, and a long one is cut.

    Examples
    --------
    >>> shown(" two   words"), len(shown("x" * 1000))
    ('two words', 80)
    """
    words = _UNPRINTABLE.sub("\ufffd", str(name))
    words = " ".join(words.split()) or "(empty)"
    return words if len(words) <= LONGEST else f"{words[: LONGEST - 1]}…"


def class_names(classes: Sequence[Any] | None, artefact: Any, n_classes: int) -> list[str]:
    """Return the name of each class: as given, or as the calibrator knows it, or its column's number."""
    if classes is None:
        known = [] if artefact is None else artefact.get("classes", [])
        classes = known if len(known) == n_classes else range(n_classes)
    return [str(name) for name in classes]
