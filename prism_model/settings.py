"""Typed settings: frozen dataclasses filled from plain data (YAML, JSON, ``key=value``), unknown keys refused.

Nothing in a file of settings executes; values are checked against the annotations of the dataclass.
"""

from __future__ import annotations

import math
import operator
import types
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from genostore.errors import GenostoreError, QueryError, nearest

T = TypeVar("T")

_COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


def from_plain(cls: type[T], plain: Any, where: str = "") -> T:
    """Make a dataclass of nested mappings.

    Parameters
    ----------
    cls
        The dataclass.
    plain
        A mapping of its fields; those left out keep their defaults.
    where
        Dotted place of the mapping, for errors.

    Returns
    -------
    object
        An instance of ``cls``.

    Raises
    ------
    genostore.errors.QueryError
        For unknown keys and wrong types, all of them listed.
    """
    problems: list[str] = []
    value = _build(cls, plain, where, problems)
    if problems:
        raise QueryError("the settings have " + "; ".join(problems))
    result: T = value
    return result


def to_plain(settings: Any) -> dict[str, Any]:
    """Nested dictionaries and lists of a dataclass, as YAML and JSON write them; fields that cannot be set left out."""
    return {f.name: _listed(getattr(settings, f.name)) for f in fields(settings) if f.init}


def within(settings: Any, **bounds: str) -> None:
    """Check numbers of a dataclass; for its ``__post_init__``.

    Parameters
    ----------
    settings
        The dataclass.
    bounds
        Of each field, such as ``lr="> 0"`` or ``betas=">= 0, < 1"``. None is within all bounds, NaN and infinity are
        in none; of a tuple each number is looked at.

    Raises
    ------
    genostore.errors.QueryError
        For numbers out of bounds, all of them listed.
    """
    problems = []
    for name, rules in bounds.items():
        value = getattr(settings, name)
        for number in value if isinstance(value, tuple) else (value,):
            tests = (rule.split() for rule in rules.split(", "))
            if number is not None and not (
                math.isfinite(number) and all(_COMPARE[sign](number, float(limit)) for sign, limit in tests)
            ):
                problems.append(f"{name} must be {rules.replace(', ', ' and ')}, not {number}")
    if problems:
        raise QueryError("; ".join(problems))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a file of settings.

    Raises
    ------
    genostore.errors.QueryError
        When it is missing, not YAML, or not a mapping.
    """
    path = Path(path)
    try:
        plain = _OnceLoader(path.read_text()).get_single_data()
    except OSError as error:
        raise QueryError(f"the settings {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise QueryError(f"the settings {path} are no text: {error}") from error
    except yaml.YAMLError as error:
        raise QueryError(f"the settings {path} are no YAML: {error}") from error
    if not isinstance(plain, dict):
        raise QueryError(f"the settings {path} are a {type(plain).__name__}, expected a mapping")
    return plain


def write_yaml(path: str | Path, settings: Any) -> None:
    """Write a dataclass as YAML, in the order of its fields."""
    Path(path).write_text(yaml.safe_dump(to_plain(settings), sort_keys=False))


def merge(plain: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Nested union; where both have a value, that of ``other``."""
    result = dict(plain)
    for key, value in other.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merge(result[key], value) if both else value
    return result


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """Nested mapping of ``"train.lr=0.001"`` texts; values are YAML.

    Raises
    ------
    genostore.errors.QueryError
        For a text that is no ``key=value``.
    """
    plain: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise QueryError(f"{pair!r} sets nothing; expected key=value, such as train.lr=0.001")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise QueryError(f"the value of {pair!r} is no YAML: {error}") from error
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        plain = merge(plain, value)
    return plain


class _OnceLoader(yaml.SafeLoader):
    """YAML that executes nothing, and says no key twice: of two values one would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping, its keys compared."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen and isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    "while reading a mapping", node.start_mark, f"the key {key.value!r} comes twice", key.start_mark
                )
            seen.add(str(key.value))
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def _build(kind: Any, plain: Any, where: str, problems: list[str]) -> Any:
    """The value of a type, or None with a problem noted."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _build_dataclass(kind, plain, where, problems)
    if origin in (Union, types.UnionType):
        for option in arguments:
            tried: list[str] = []
            value = _build(option, plain, where, tried)
            if not tried:
                return value
    elif origin is Literal:
        if plain in arguments:
            return plain
    elif origin is tuple:
        if isinstance(plain, list | tuple):
            size = len(plain) if arguments[-1] is Ellipsis else len(arguments)
            if len(plain) == size:
                items = arguments[:1] * size if arguments[-1] is Ellipsis else arguments
                return tuple(
                    _build(item, value, f"{where}[{i}]", problems)
                    for i, (item, value) in enumerate(zip(items, plain, strict=True))
                )
    elif kind is type(None):
        if plain is None:
            return None
    elif kind is float:
        # YAML 1.1 takes 1e-3 for a text.
        if isinstance(plain, int | float | str) and not isinstance(plain, bool):
            try:
                return float(plain)
            except ValueError:
                pass
    elif isinstance(plain, kind) and not (kind is int and isinstance(plain, bool)):
        return plain
    problems.append(f"{where} = {plain!r}, expected {_spell(kind)}")
    return None


def _build_dataclass(kind: Any, plain: Any, where: str, problems: list[str]) -> Any:
    if not isinstance(plain, Mapping):
        problems.append(f"{where or 'everything'} = {plain!r}, expected a mapping")
        return None
    if hasattr(kind, "settings_class"):  # a family of dataclasses, of which the settings name one
        try:
            kind = kind.settings_class(plain)
        except GenostoreError as error:
            problems.append(f"{where or 'everything'} that fits nothing: {error}")
            return None
    hints = get_type_hints(kind)
    names = [f.name for f in fields(kind) if f.init]
    before = len(problems)
    values = {}
    for key, value in plain.items():
        place = f"{where}.{key}" if where else str(key)
        if key in names:
            values[key] = _build(hints[key], value, place, problems)
        else:
            problems.append(f"an unknown key {place!r} ({nearest(str(key), names, limit=len(names))})")
    if len(problems) > before:
        return None
    try:
        return kind(**values)
    except ValueError as error:
        problems.append(f"{where or 'values'} that do not fit: {error}")
    return None


def _listed(value: Any) -> Any:
    if is_dataclass(value):
        return to_plain(value)
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value


def _spell(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_spell(a) for a in arguments)
    if origin is Literal:
        return " or ".join(repr(a) for a in arguments)
    if origin is tuple:
        number = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        return f"a list of {number}{_spell(arguments[0])}"
    return "nothing" if kind is type(None) else str(kind.__name__)
