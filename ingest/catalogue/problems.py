"""What is wrong with a catalogue: one record a problem, one error that lists them all."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from genostore.errors import CatalogueError, nearest

Location = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a catalogue.

    Attributes
    ----------
    line
        The line of the file, from 1; None where there is no file.
    where
        The place in the catalogue, such as ``tracks[0].assay``; empty for the file as a whole.
    message
        What was got, what was expected and what to do.
    """

    line: int | None
    where: str
    message: str


def place(location: Location) -> str:
    """Write a location as a reader of the file would: ``("tracks", 0, "assay")`` is ``tracks[0].assay``.

    Parameters
    ----------
    location
        Keys and list indices, from the top of the document.

    Returns
    -------
    str
        The place; empty for the document itself.
    """
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def failure(path: str | PathLike[str] | None, problems: Iterable[Problem]) -> CatalogueError:
    """Make the one error that lists every problem, in the order of the file.

    Parameters
    ----------
    path
        The catalogue's file, None when it was made in Python.
    problems
        What is wrong with it.

    Returns
    -------
    CatalogueError
        ``catalog.yaml:12: tracks[0].asay: unknown key; did you mean 'assay'?``, or a list of such lines.
    """
    name = Path(fspath(path)).name if path is not None else "catalogue"
    lines = []
    for problem in sorted(set(problems), key=lambda p: (p.line or 0, p.where, p.message)):
        parts = [name if problem.line is None else f"{name}:{problem.line}", problem.where, problem.message]
        lines.append(": ".join(part for part in parts if part))
    if len(lines) == 1:
        return CatalogueError(lines[0])
    return CatalogueError(f"{len(lines)} problems in {path or name}\n  " + "\n  ".join(lines))


def report(path: str | PathLike[str] | None, problems: Iterable[Problem]) -> None:
    """Raise `failure` if there is any problem.

    Parameters
    ----------
    path, problems
        As for `failure`.

    Raises
    ------
    CatalogueError
        If there is any problem.
    """
    found = list(problems)
    if found:
        raise failure(path, found)


def described(value: object) -> str:
    """Say what a value of the file is, in plain words.

    Parameters
    ----------
    value
        Text, a list, a mapping or None, as the file gave it.

    Returns
    -------
    str
        For example ``'abc'``, ``a list of 2`` or ``nothing``.
    """
    match value:
        case None:
            return "nothing"
        case str():
            return repr(value if len(value) <= 80 else value[:77] + "...")
        case Mapping():
            return f"a mapping with the keys {', '.join(map(str, value))}" if value else "an empty mapping"
        case Sequence():
            return f"a list of {len(value)}"
    return repr(value)


_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "a mapping of key: value",
    "tuple_type": "a list",
    "model_type": "a mapping of key: value",
    "model_attributes_type": "a mapping of key: value",
}


def _message(detail: ErrorDetails) -> str:
    """Put one of pydantic's findings in plain words."""
    kind, context, got = detail["type"], detail.get("ctx", {}), described(detail["input"])
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, got {got}"
    match kind:
        case "value_error":
            return str(context["error"])
        case "literal_error":
            return f"expected {context['expected']}, got {got}"
        case "string_too_short" | "too_short" if context["min_length"] == 1:
            return "is empty"
        case "too_short":
            return f"expected {context['min_length']} or more, got {got}"
        case "greater_than_equal":
            return f"expected {context['ge']} or more, got {got}"
        case "less_than_equal":
            return f"expected {context['le']} or less, got {got}"
    return f"{detail['msg']}, got {got}"


def _key_message(detail: ErrorDetails) -> str:
    """Put what is wrong with a key of a mapping in plain words."""
    if detail["type"] == "literal_error":
        keys = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        return f"unknown key; {_keys(str(detail['input']), keys)}"
    return f"as a key, {_message(detail)}"


def _keys(name: str, known: Collection[str]) -> str:
    """Which key was meant, or which there are."""
    return nearest(name, known, limit=len(known)).replace("there are", "the keys are")


def explain(
    error: ValidationError, model: type[BaseModel], raw: Mapping[str, Any] | None = None
) -> Iterator[tuple[Location, str]]:
    """Put what pydantic found wrong with one entry in plain words.

    A missing key is not reported beside an unknown one that is plainly a misspelling of it.

    Parameters
    ----------
    error
        What validation raised.
    model
        The model the entry was validated against.
    raw
        The entry as written; without it only its keys are named, not what is within them.

    Yields
    ------
    tuple
        The location within the entry, and a message.
    """
    known = list(model.model_fields)
    details = error.errors(include_url=False)
    misspelt: set[str] = set()
    for detail in details:
        location = _steps(detail["loc"], raw)
        if detail["type"] == "extra_forbidden":
            hint = ""
            if len(location) == 1:
                hint = _keys(str(location[0]), known)
                misspelt.update(name for name in known if hint.startswith(f"did you mean {name!r}"))
            yield location, "unknown key" + (f"; {hint}" if hint else "")
        elif detail["type"] != "missing":
            yield location, _key_message(detail) if detail["loc"][-1:] == ("[key]",) else _message(detail)
    for detail in details:
        if detail["type"] == "missing" and detail["loc"][-1] not in misspelt:
            yield _steps(detail["loc"][:-1], raw), f"the key {detail['loc'][-1]!r} is missing"


def _steps(location: Location, raw: object) -> Location:
    """The part of pydantic's location that is in the file: without the names of a union's alternatives."""
    if raw is None:
        return location[:1]
    steps: list[str | int] = []
    for step in location:
        if isinstance(raw, Mapping) and step in raw:
            raw = raw[step]
        elif isinstance(raw, Sequence) and not isinstance(raw, str) and isinstance(step, int):
            raw = raw[step] if step < len(raw) else None
        else:
            continue
        steps.append(step)
    return tuple(steps)
