"""Reads JSON into frozen dataclasses: parse, don't validate. Unknown, missing and ill-typed fields
are errors."""

import dataclasses
import types
import typing
from typing import Any

from cryptogen.errors import PlanError


def read(kind: Any, value: Any, where: str) -> Any:
    """`value` (from `json.load`) as a `kind`: a dataclass, int, str, bool, dict, `tuple[T, ...]` or
    `T | None`."""
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, where)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else read(args[0], value, where)
    if origin is tuple:
        items = _typed(list, value, where)
        return tuple(read(args[0], item, f"{where}[{i}]") for i, item in enumerate(items))
    if origin is dict and args[1] is not Any:
        return {key: read(args[1], item, f"{where}.{key}") for key, item in _typed(dict, value, where).items()}
    return _typed(origin or kind, value, where)


def _record(kind: Any, value: Any, where: str) -> Any:
    entries = _typed(dict, value, where)
    hints = typing.get_type_hints(kind)
    if unknown := sorted(set(entries) - set(hints)):
        raise PlanError(where or "document", f"fields {sorted(hints)}", unknown)
    if missing := sorted(set(hints) - set(entries)):
        raise PlanError(where or "document", f"field {missing[0]}", "nothing")
    return kind(**{name: read(hint, entries[name], f"{where}.{name}".lstrip(".")) for name, hint in hints.items()})


def _typed(kind: Any, value: Any, where: str) -> Any:
    if type(value) is not kind:  # bool is not an int here
        shown = value if isinstance(value, (int, float, str, type(None))) else type(value).__name__
        raise PlanError(where, kind.__name__, shown)
    return value
