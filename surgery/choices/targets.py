"""How people say how large a model is to be, or how good: ``90M``, ``100MB``, ``WER+1``."""

from __future__ import annotations

import re

from surgery.choices.rules import Bound, MaxError, MaxPplIncrease, MaxWerIncrease
from surgery.errors import UsageError

_THOUSANDS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_BYTES = {
    "": 1,
    "b": 1,
    **{f"{prefix}b": 10 ** (3 * power) for power, prefix in enumerate("kmg", 1)},
    **{f"{prefix}ib": 1 << (10 * power) for power, prefix in enumerate("kmg", 1)},
}
WITHIN = "WER+1, ppl*1.1 or error+0.1"
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")
_BOUND = re.compile(r"(wer\+|ppl\*|error\+)(\d*\.?\d+)")


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


def bound_in(text: str, flag: str = "--within") -> Bound:
    """Return a bound on what a cut costs.

    ``WER+1``: a word error rate of at most one point more; ``ppl*1.1``: a perplexity of at most 1.1
    times what it is; ``error+0.1``: an error of the model's output of at most 0.1.

    Raises:
        UsageError: It cannot be read, or is out of range.
    """
    found = _BOUND.fullmatch("".join(text.lower().split()))
    kind, number = ("", 0.0) if found is None else (found[1], float(found[2]))
    if kind == "wer+" and number <= 100:
        return MaxWerIncrease(number)
    if kind == "ppl*" and number >= 1:
        return MaxPplIncrease(round(number - 1, 12))
    if kind == "error+":
        return MaxError(number)
    raise UsageError(f"{flag} cannot be read", found=text, expected=f"a bound such as {WITHIN}")


def _amount(text: str | int, units: dict[str, int], flag: str, expected: str) -> int:
    match = _AMOUNT.fullmatch(str(text).strip().lower())
    number = 0
    if match is not None and match[2] in units:
        number = round(float(match[1]) * units[match[2]])
    if number < 1:
        raise UsageError(f"{flag} cannot be read", found=text, expected=expected)
    return number
