"""How people say how large a model is to be: ``90M`` parameters, ``100MB``, ``95 MiB``."""

from __future__ import annotations

import re

from surgery.errors import UsageError

_THOUSANDS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_BYTES = {
    "": 1,
    "b": 1,
    **{f"{prefix}b": 10 ** (3 * power) for power, prefix in enumerate("kmg", 1)},
    **{f"{prefix}ib": 1 << (10 * power) for power, prefix in enumerate("kmg", 1)},
}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")


def parameters_in(text: str | int, flag: str = "--target-parameters") -> int:
    """Return a number of parameters: ``90M``, ``1.2B``, ``37184``.

    Raises:
        UsageError: It cannot be read, or is zero.
    """
    return _amount(text, _THOUSANDS, flag, "a number of parameters such as 90M, 1.2B or 37184")


def bytes_in(text: str | int, flag: str = "--target-size") -> int:
    """Return a number of bytes: ``100MB``, ``95MiB``, ``0.5 GB``, ``37184``.

    Raises:
        UsageError: It cannot be read, or is zero.
    """
    return _amount(text, _BYTES, flag, "a size such as 100MB, 0.5GB or 95MiB")


def _amount(text: str | int, units: dict[str, int], flag: str, expected: str) -> int:
    match = _AMOUNT.fullmatch(str(text).strip().lower())
    number = 0
    if match is not None and match[2] in units:
        number = round(float(match[1]) * units[match[2]])
    if number < 1:
        raise UsageError(f"{flag} cannot be read", found=text, expected=expected)
    return number
