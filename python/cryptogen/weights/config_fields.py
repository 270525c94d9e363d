"""Reading typed fields out of somebody else's configuration, and refusing by name what is not
computed here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cryptogen.errors import InvalidConfig, UnsupportedModel

_MISSING = object()


class ConfigFields:
    """Typed access to a JSON-like mapping. Errors name the option, what was expected and what is
    there."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def integer(self, name: str, default: int | None = None) -> int:
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidConfig(name, "an integer", value)
        return int(value)

    def number(self, name: str, default: float | None = None) -> float:
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidConfig(name, "a number", value)
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise InvalidConfig(name, "true or false", value)
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self._get(name, default)
        if not isinstance(value, str):
            raise InvalidConfig(name, "a string", value)
        return value

    def token_ids(self, name: str) -> list[int]:
        """An id, a list of ids, or nothing."""
        value = self._values.get(name)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if any(isinstance(t, bool) or not isinstance(t, int) for t in ids):
            raise InvalidConfig(name, "token ids", value)
        return ids

    def only(self, name: str, supported: Iterable[Any]) -> None:
        """Absent or one of `supported`, else `UnsupportedModel`."""
        value, allowed = self._values.get(name, _MISSING), list(supported)
        if value is not _MISSING and not any(value == a and type(value) is type(a) for a in allowed):
            raise UnsupportedModel(name, value, allowed)

    def _get(self, name: str, default: Any) -> Any:
        value = self._values.get(name)
        if value is None:
            value = default
        if value is None:
            raise InvalidConfig(name, "a value", None)
        return value
