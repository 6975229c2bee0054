"""What a ``source`` may say: ``${NAME}``, a path relative to the catalogue, a glob with fields, a URL."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from genostore.errors import SourceError, nearest
from ingest.fetch import at_home, check_source, scheme

_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_FIELD = re.compile(r"\{([^{}]*)\}")
_FIELDS = ("cell_type", "assay")


def substitute(source: str, environment: Mapping[str, str] | None = None) -> str:
    """Replace each ``${NAME}`` by the environment variable of that name; nothing else is expanded.

    Parameters
    ----------
    source
        As written.
    environment
        ``os.environ`` by default.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If a variable is not set or its name is empty.
    """
    known = os.environ if environment is None else environment

    def value(match: re.Match[str]) -> str:
        if not known.get(match[1]):
            raise ValueError(f"the environment variable {match[1]} in {source!r} is not set")
        return known[match[1]]

    return _VARIABLE.sub(value, source)


def located(source: str, folder: Path) -> str:
    """Make a local path absolute; leave a URL or an accession as it is.

    Parameters
    ----------
    source
        After `substitute`.
    folder
        The catalogue's, which relative paths start from; ``~`` is the user's own.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If it has a scheme that is not known, or is no well-formed accession.
    """
    if scheme(source):
        try:
            check_source(source)
        except SourceError as error:
            raise ValueError(str(error)) from None
        return source
    return os.path.normpath(folder / at_home(source))


def is_glob(source: str) -> bool:
    """Say whether a source is a local path with ``*`` or ``{field}`` in it."""
    return not scheme(source) and ("*" in source or _FIELD.search(source) is not None)


def missing(path: str) -> str | None:
    """Say why a local path is no file that can be read, with the nearest name beside it; None if it is one."""
    file = Path(path)
    if file.is_dir():
        return f"{path} is a folder; expected a file"
    if not file.is_file():
        if "::" in path:
            return f"no such file: {path}; name the file alone, bin_size chooses what is read in it"
        if not file.parent.is_dir():
            return f"no such file: {path}; there is no folder {file.parent}"
        beside = sorted(entry.name for entry in os.scandir(file.parent) if not entry.name.startswith("."))
        close = difflib.get_close_matches(file.name, beside, n=1, cutoff=0.6)
        return f"no such file: {path}" + (f"; did you mean {close[0]!r}?" if close else "")
    if not os.access(file, os.R_OK):
        return f"{path} cannot be read: no permission"
    return None


def expand(pattern: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Find the files that a glob means.

    ``*`` matches any characters but ``/``; ``{cell_type}`` and ``{assay}`` match one or more, and what they match
    is the value of that key. Hidden files are not matched unless the pattern names the dot.

    Parameters
    ----------
    pattern
        An absolute path with ``*`` or fields in it.

    Yields
    ------
    tuple
        A path and its fields, in the order of the paths.

    Raises
    ------
    ValueError
        If a field is unknown, nothing matches, or a name can be divided among the fields in two ways.
    """
    for field in _FIELD.findall(pattern):
        if field not in _FIELDS:
            raise ValueError(f"unknown field {{{field}}} in {pattern!r}; {nearest(field, _FIELDS)}")
    lazy, greedy = _regex(pattern, "+?", "*?"), _regex(pattern, "+", "*")
    found = False
    for path in _walk(pattern):
        first, second = lazy.fullmatch(path), greedy.fullmatch(path)
        if first is None or second is None:  # a repeated field that would need two values
            continue
        found = True
        if first.groupdict() != second.groupdict():
            ways = " or ".join(
                ", ".join(f"{k} {v!r}" for k, v in match.groupdict().items()) for match in (first, second)
            )
            raise ValueError(f"{Path(path).name} can be read as {ways}; write an entry for each such file instead")
        yield path, first.groupdict()
    if not found:
        raise ValueError(f"no file matches {pattern}")


def _regex(pattern: str, some: str, any_: str) -> re.Pattern[str]:
    text, seen = "", set()
    for part in re.split(r"(\*|\{[^{}]*\})", pattern):
        if part == "*":
            text += f"[^/]{any_}"
        elif _FIELD.fullmatch(part):
            name = part[1:-1]
            text += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]{some})"
            seen.add(name)
        else:
            text += re.escape(part)
    return re.compile(text)


def _walk(pattern: str) -> Iterator[str]:
    """The files whose path fits the pattern component by component, in order."""
    paths = [Path(Path(pattern).anchor)]
    for component in Path(pattern).parts[1:]:
        if "*" in component or "{" in component:
            fits = re.compile(re.sub(r"\\\*|\\\{[^{}]*\\\}", "[^/]*", re.escape(component)))
            paths = [
                path / name
                for path in paths
                if path.is_dir()
                for name in sorted(entry.name for entry in os.scandir(path))
                if fits.fullmatch(name) and (not name.startswith(".") or component.startswith("."))
            ]
        else:
            paths = [path / component for path in paths]
    yield from (str(path) for path in paths if path.is_file())
