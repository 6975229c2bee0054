"""A YAML file as plain data that remembers its lines.

Every scalar is kept as the text that was written (an empty one, ``~`` and ``null`` are None) and each key of
the catalogue reads its own: a contig ``22``, a cell type ``NO`` and a version ``1.10`` stay what they say.
The file is read as a stream of parse events, so nothing in it can construct an object, nesting is bounded
before it costs anything, and aliases are counted at their expanded size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import yaml

from genostore.errors import CatalogueError
from ingest.catalogue.problems import Location, Problem, failure, place

_MOST_BYTES = 16 << 20
_MOST_VALUES = 1_000_000
_DEEPEST = 16
_NULLS = {"", "~", "null", "Null", "NULL"}
_STANDARD = "tag:yaml.org,2002:"
_PLAIN_TAGS = {None, "!", *(_STANDARD + tag for tag in ("str", "int", "float", "bool", "null", "seq", "map"))}
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser is ten times faster where it is built

_HINTS = {
    "mapping values are not allowed": 'a text with ": " in it needs quotes, and keys of one level one indent',
    "block sequence entries are not allowed": 'a lone "-" needs quotes',
    "found character that cannot start": "indent with spaces, not tabs; a text that starts with @ ` % needs quotes",
    "did not find expected ','": "a text with { } [ ] or , in it needs quotes here",
    "did not find expected key": "a text that starts with { or [ needs quotes, and keys of one level one indent",
    "while scanning an alias": "a text that starts with * needs quotes",
}


@dataclass
class Document:
    """A parsed file.

    Attributes
    ----------
    path
        Where it was read from.
    data
        Mappings (dict), lists (tuple) and scalars (str or None).
    lines
        The line, from 1, of each location: of a mapping's value the line of its key.
    problems
        What is wrong with the YAML itself though it can be read: keys given twice, tags.
    """

    path: Path
    data: Any = None
    lines: dict[Location, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @classmethod
    def read(cls, path: str | PathLike[str]) -> Document:
        """Parse a file.

        Parameters
        ----------
        path
            A YAML file of at most 16 MiB.

        Returns
        -------
        Document

        Raises
        ------
        CatalogueError
            If it cannot be opened, is not text or is not YAML.
        """
        document = cls(Path(path))
        document.data = _Builder(document).build(_text(document.path))
        return document

    def line(self, location: Location) -> int | None:
        """Give the line of a location, or of the nearest one above it that is in the file."""
        while location:
            if location in self.lines:
                return self.lines[location]
            location = location[:-1]
        return None

    def problem(self, location: Location, message: str) -> Problem:
        """Make a problem at a location, with its line."""
        return Problem(self.line(location), place(location), message)


@dataclass
class _Node:
    """A mapping or a list whose end has not come yet."""

    location: Location
    mapping: bool
    anchor: str | None
    items: list[tuple[str | None, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    key: str | None = None
    size: int = 1

    @property
    def wants_key(self) -> bool:
        return self.mapping and self.key is None


class _Builder:
    """Assembles the value of a stream of events, without recursion."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.open: list[_Node] = []
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.documents = 0
        self.result: Any = None

    def build(self, text: str) -> Any:
        try:
            for event in yaml.parse(text, Loader=_LOADER):
                self._take(event, event.start_mark.line + 1 if event.start_mark else 0)
        except yaml.MarkedYAMLError as error:
            raise self._not_yaml(error) from None
        except yaml.reader.ReaderError as error:
            message = f"holds the character {chr(error.character)!r}, which YAML does not allow"
            raise self._stop(None, message) from None
        return self.result

    def _take(self, event: yaml.Event, line: int) -> None:
        match event:
            case yaml.DocumentStartEvent():
                self.documents += 1
                if self.documents > 1:
                    raise self._stop(line, "a second document starts here; a catalogue is one, without '---'")
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._check_tag(event.tag, line)
                if len(self.open) >= _DEEPEST:
                    raise self._stop(line, f"nested more than {_DEEPEST} deep, which no catalogue is")
                mapping = isinstance(event, yaml.MappingStartEvent)
                self.open.append(_Node(self._enter(line), mapping, event.anchor))
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                node = self.open.pop()
                value = dict(node.items) if node.mapping else tuple(item for _, item in node.items)
                self._leave(value, node.size, node.anchor, line)
            case yaml.ScalarEvent() if self.open and self.open[-1].wants_key:
                self._check_tag(event.tag, line)
                self._key(self.open[-1], event.value, line)
            case yaml.ScalarEvent():
                self._check_tag(event.tag, line)
                self._enter(line)
                null = event.implicit[0] and event.value in _NULLS
                self._leave(None if null else event.value, 1, event.anchor, line)
            case yaml.AliasEvent():
                if event.anchor not in self.anchors:
                    raise self._stop(line, f"*{event.anchor} names no &{event.anchor} that ends before this line")
                self._enter(line)
                self._leave(*self.anchors[event.anchor], None, line)

    def _enter(self, line: int) -> Location:
        """Give the location of a value that starts now, and note the line of a list's item."""
        if not self.open:
            return ()
        parent = self.open[-1]
        if parent.mapping:
            if parent.key is None:
                raise self._stop(line, "a key must be text, got a list, a mapping or an alias")
            return (*parent.location, parent.key)
        location = (*parent.location, len(parent.items))
        self.document.lines[location] = line
        return location

    def _key(self, node: _Node, key: str, line: int) -> None:
        location = (*node.location, key)
        if key in node.keys:
            message = f"this key is given twice, first at line {self.document.lines[location]}; keep one"
            self.document.problems.append(Problem(line, place(location), message))
        else:
            self.document.lines[location] = line
            node.keys.add(key)
        node.key = key

    def _leave(self, value: Any, size: int, anchor: str | None, line: int) -> None:
        """Hand a finished value to its parent."""
        if anchor is not None:
            self.anchors[anchor] = (value, size)
        if not self.open:
            self.result = value
            return
        parent = self.open[-1]
        parent.size += size
        if parent.size > _MOST_VALUES:
            raise self._stop(line, f"more than {_MOST_VALUES:,} values once its aliases are expanded")
        parent.items.append((parent.key, value))
        parent.key = None

    def _check_tag(self, tag: str | None, line: int) -> None:
        if tag not in _PLAIN_TAGS:
            message = f"the tag {str(tag).replace(_STANDARD, '!!')} is not allowed; a catalogue is plain data"
            self.document.problems.append(Problem(line, "", message))

    def _stop(self, line: int | None, message: str) -> CatalogueError:
        return failure(self.document.path, [*self.document.problems, Problem(line, "", message)])

    def _not_yaml(self, error: yaml.MarkedYAMLError) -> CatalogueError:
        at, began = error.problem_mark or error.context_mark, error.context_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        if began and at and began.line != at.line:
            said += f" (it began at line {began.line + 1})"
        hint = next((f"; {hint}" for phrase, hint in _HINTS.items() if phrase in said), "")
        return self._stop(at.line + 1 if at else None, f"not YAML: {said}{hint}")


def _text(path: Path) -> str:
    """Read a file that should be a catalogue."""
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            message = f"holds {size:,} bytes; a catalogue is text of at most {_MOST_BYTES:,}"
            raise failure(path, [Problem(None, "", message)])
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        message = f"cannot be read: {(error.strerror or str(error)).lower()} ({path})"
    except UnicodeDecodeError as error:
        message = f"is not text: byte {error.start} is no UTF-8; expected a YAML catalogue"
    raise failure(path, [Problem(None, "", message)])
