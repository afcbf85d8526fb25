"""A study as one HTML page that opens from disk, its figures as files beside it, and the same in Markdown."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import focalcal
from focalcal._settings import optional_module
from focalcal.io.files import written_aside

#: A cell of a table: a text, or a text with a smaller one beneath it.
Entry = str | tuple[str, str]

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Table:
    """Rows under a header; the first entry of a row names it. A folded one shows its caption at first."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Entry]]
    folded: bool = False


@dataclass(frozen=True)
class Figure:
    """A drawing as of `focalcal.reporting.svg.picture`; its file's name ends in `name`."""

    name: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, tables, figures and commands, in this order but for folded tables."""

    heading: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    commands: Sequence[str] = ()


def write_page(
    path: str | os.PathLike[str],
    title: str,
    lead: Sequence[str],
    sections: Sequence[Section],
    facts: Mapping[str, str],
) -> Path:
    """Write a study as a page, as Markdown and its figures as drawings, all beside each other.

    Parameters
    ----------
    path : path-like
        Of the page, e.g. "fts.html": "fts.md" and "fts-*.svg" are written beside it.
    title : str
    lead : sequence of str
        What the study found, first in one sentence: what comes before its first colon is set in bold.
    sections : sequence of Section
    facts : mapping of str to str
        What was run: versions, machine, seeds.

    Returns
    -------
    pathlib.Path
        The page.

    Raises
    ------
    ImportError
        If jinja2 is not installed.

    Notes
    -----
    The page has no script and loads nothing; a content security policy allows its own style by its hash and
    nothing else. Every text is escaped; only the figures' drawings are taken as they are.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_page(f"{folder}/a.html", "A study", ["It holds."], [Section("Why")], {"Runs": "3"})
    ...     page, short = (path.with_suffix(end).read_text() for end in (".html", ".md"))
    >>> page.startswith("<!doctype html>"), short.splitlines()[0]
    (True, '# A study')
    """
    path = Path(path)
    jinja2 = optional_module("jinja2", "a study's page", "plot")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    report = (_FOLDER.parents[1] / "reporting" / "page.css").read_text(encoding="utf-8")
    style = _style("figure.css") + report + _style("study.css")
    before, colon, rest = lead[0].partition(": ")
    page = environment.get_template("study.html").render(
        title=title,
        verdict=(f"{before}:", rest) if colon else ("", lead[0]),
        details=lead[1:],
        sections=sections,
        facts=facts,
        style=style,
        style_hash=f"sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}",
        focalcal=focalcal.__version__,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    for figure in (figure for section in sections for figure in section.figures):
        _write(path.with_name(f"{path.stem}-{figure.name}.svg"), _drawing(figure.svg))
    _write(path.with_suffix(".md"), _markdown(title, lead, sections, facts))
    _write(path, page)
    return path


def _style(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _write(path: Path, content: str) -> None:
    with written_aside(path) as aside:
        Path(aside).write_text(content, encoding="utf-8", errors="replace")


def _drawing(svg: str) -> str:
    """Return a drawing that stands alone: with its name space, its style and a background."""
    named = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    head, _, rest = named.partition(">")
    back = '<rect class="back" width="100%" height="100%"/>'
    return f"{head}><style>{_style('figure.css')}</style>{back}{rest}\n"


def _markdown(title: str, lead: Sequence[str], sections: Sequence[Section], facts: Mapping[str, str]) -> str:
    parts = [f"# {_plain(title)}", *map(_plain, lead)]
    for section in sections:
        parts += [f"## {_plain(section.heading)}", *map(_plain, section.paragraphs)]
        parts += [part for table in section.tables for part in (_plain(table.caption) + ":", _rows(table))]
        parts += [f"```\n{command}\n```" for command in section.commands]
    parts += ["## What was run", "\n".join(f"- {_plain(name)}: {_plain(v)}" for name, v in facts.items())]
    return "\n\n".join(parts) + "\n"


def _rows(table: Table) -> str:
    lines = [table.header, ["---", *["---:"] * (len(table.header) - 1)]]
    lines += [[e if isinstance(e, str) else f"{e[0]} ({e[1]})" for e in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(map(_plain, line))} |" for line in lines)


def _plain(text: str) -> str:
    """Return a text as one line in which Markdown sees no cell, tag or emphasis."""
    line = " ".join(text.split())
    for sign in "\\|<*_`[":
        line = line.replace(sign, f"\\{sign}")
    return line
