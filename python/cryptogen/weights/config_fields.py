"""Reading typed fields out of somebody else's configuration, and refusing by name what is not
computed here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryptogen.errors import InvalidConfig, UnsupportedModel

_MISSING = object()


class ConfigFields:
    """Typed access to a JSON-like mapping. Errors name the option, what was expected and what is
    there."""

    def __init__(self, values: Mapping[str, Any], within: str = "") -> None:
        self._values, self._within = values, f"{within}." if within else ""

    def integer(self, name: str, default: int | None = None) -> int:
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidConfig(self.named(name), "an integer", value)
        return int(value)

    def number(self, name: str, default: float | None = None) -> float:
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidConfig(self.named(name), "a number", value)
        return float(value)

    def named(self, name: str) -> str:
        """What errors call an option."""
        return self._within + name

    def numbers(self, name: str, count: int) -> NDArray[np.float64]:
        """A list of positive numbers."""
        values = self._get(name, None)
        sound = isinstance(values, list) and len(values) == count
        if not sound or any(isinstance(x, bool) or not isinstance(x, int | float) or not 0 < x < 1e9 for x in values):
            raise InvalidConfig(self.named(name), f"{count} positive numbers", values)
        return np.array(values, dtype=np.float64)

    def known(self, names: Iterable[str]) -> None:
        """`UnsupportedModel` for an option of another name."""
        if unknown := sorted(set(map(str, self._values)) - set(names)):
            raise UnsupportedModel(self.named(unknown[0]), self._values.get(unknown[0]), ["absent"])

    def flag(self, name: str, default: bool) -> bool:
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise InvalidConfig(self.named(name), "true or false", value)
        return value

    def text(self, name: str, default: str | None = None) -> str:
        value = self._get(name, default)
        if not isinstance(value, str):
            raise InvalidConfig(self.named(name), "a string", value)
        return value

    def token_ids(self, name: str) -> list[int]:
        """An id, a list of ids, or nothing."""
        value = self._values.get(name)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if any(isinstance(t, bool) or not isinstance(t, int) for t in ids):
            raise InvalidConfig(self.named(name), "token ids", value)
        return ids

    def only(self, name: str, supported: Iterable[Any]) -> None:
        """Absent or one of `supported`, else `UnsupportedModel`."""
        value, allowed = self._values.get(name, _MISSING), list(supported)
        if value is not _MISSING and not any(value == a and type(value) is type(a) for a in allowed):
            raise UnsupportedModel(self.named(name), value, allowed)

    def _get(self, name: str, default: Any) -> Any:
        value = self._values.get(name)
        if value is None:
            value = default
        if value is None:
            raise InvalidConfig(self.named(name), "a value", None)
        return value
