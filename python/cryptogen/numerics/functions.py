"""Checks the plan's `functions` before anything is computed from them: a client gets them from the
server."""

from typing import Any

from cryptogen.errors import PlanError
from cryptogen.models.config import FULL_TURN

from .pieces import MAKERS

_PIECES = {"k": (4, 16), "h": (1, 32)}
_RANGE = {**_PIECES, "low": (0, 1 << 15), "fine": (0, 1), "below": None}
_ROTARY = {"bits": (1, 32), "frequencies": None, "positions": (1, 1 << 20)}
_PAIRS = 1 << 12  # of a head at most
_ACTIVATION = {**_PIECES, "bits": (0, 32), "guard": (0, 2), "degree": (1, 2)}
PARAMETERS: dict[str, dict[str, Any]] = {
    "reciprocal": {**_RANGE, "bits": (0, 62)},
    "rsqrt": {**_RANGE, "numerator": (0.0, 2.0**62), "eps": (0.0, 2.0**62), "gap": None},
    "rope_cos": _ROTARY,
    "rope_sin": _ROTARY,
    "gelu": _ACTIVATION,
    "gelu_new": _ACTIVATION,
    "relu": _ACTIVATION,
    "silu": _ACTIVATION,
}
assert set(PARAMETERS) == set(MAKERS)


def check_function(where: str, function: dict[str, Any]) -> int:
    """Entries of all its tables together. Raises PlanError for an unknown kind or any parameter out
    of range."""
    kind = function.get("kind")
    if not isinstance(kind, str) or kind not in PARAMETERS:
        raise PlanError(f"{where}.kind", sorted(PARAMETERS), kind)
    parameters = PARAMETERS[kind]
    if set(function) != {"kind", "tables", *parameters}:
        raise PlanError(where, sorted({"kind", "tables", *parameters}), sorted(map(str, function)))
    for name, limits in parameters.items():
        if limits is not None:
            _number(f"{where}.{name}", function[name], limits)
        elif name == "frequencies":
            _frequencies(f"{where}.{name}", function[name])
        elif function[name] is not None:  # `below`: a number of pieces; `gap`: two
            pieces, value = (0, (1 << function["k"]) - 1), function[name]
            for number in _two(f"{where}.gap", value) if name == "gap" else (value,):
                _number(f"{where}.{name}", number, pieces)
    rotary = kind.startswith("rope")
    count = 1 if rotary else 2 + (function.get("guard") != 0) + (function.get("below") is not None)
    count += function.get("degree") == 2
    ids = function["tables"]
    if type(ids) is not list or len(ids) != count or any(type(i) is not int for i in ids):
        raise PlanError(f"{where}.tables", f"{count} integers", ids)
    return int(function["positions"] * len(function["frequencies"]) if rotary else count << function["k"])


def _frequencies(where: str, value: Any) -> None:
    if type(value) is not list or not 1 <= len(value) <= _PAIRS:
        raise PlanError(where, f"a list of 1..{_PAIRS} numbers", type(value).__name__)
    for frequency in value:
        _number(where, frequency, (0.0, FULL_TURN))


def _two(where: str, value: Any) -> list[Any]:
    if type(value) is not list or len(value) != 2:
        raise PlanError(where, "two numbers of pieces", value)
    return value


def _number(where: str, value: Any, limits: tuple[float, float]) -> None:
    kinds = (int,) if isinstance(limits[0], int) else (int, float)
    if type(value) not in kinds or not limits[0] <= value <= limits[1]:  # NaN is not; no integer is too large to ask
        raise PlanError(where, f"{kinds[-1].__name__} in {limits[0]}..{limits[1]}", value)
