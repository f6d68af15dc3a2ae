"""Ids of tokens in config.json, generation_config.json and the like: read, and numbered anew."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from surgery.errors import CheckpointError
from surgery.vocabulary.kinds import Numbers

How = Literal["needed", "listed", "sequences", "named", "biased"]

KNOWN: Mapping[str, How] = {
    **dict.fromkeys(
        (
            "bos_token_id",
            "eos_token_id",
            "pad_token_id",
            "unk_token_id",
            "sep_token_id",
            "cls_token_id",
            "mask_token_id",
            "decoder_start_token_id",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "prev_sot_token_id",
            "no_timestamps_token_id",
            "force_words_ids",
            "task_to_id",
        ),
        "needed",
    ),
    "forced_decoder_ids": "sequences",
    "suppress_tokens": "listed",
    "begin_suppress_tokens": "listed",
    "lang_to_id": "named",
    "bad_words_ids": "listed",
    "sequence_bias": "biased",
}
"""Keys that hold ids, and what becomes of them: ``needed`` ones, one or in lists, must stay;
of what is ``listed``, and of tables (``named``), tokens or sequences that leave are no more;
``sequences`` are a position and its token; ``biased`` are a sequence and a number."""

NO_TIMESTAMPS = "no_timestamps_token_id"
LANGUAGES = "lang_to_id"

_SAYS_IDS = re.compile(r"(^|_)(token_ids?|ids|tokens?|to_id|token_index)$")
_COUNTS = re.compile(r"^(max|min|num|n|prompt_lookup_num)_|_tokens$")
_OTHERS = ("surgery", "id2label", "label2id", "quantization_config")


def needed(raw: Mapping[str, Any], *, where: object) -> set[int]:
    """Return the tokens that a configuration cannot do without.

    Args:
        raw: The parsed file.
        where: Its name, for messages.

    Raises:
        CheckpointError: A key may hold ids, and nothing here knows how.
    """
    found: set[int] = set()
    for key, value in _entries(raw, where):
        how = KNOWN[key]
        if how == "needed":
            found |= set(filter(_is_number, leaves(value)))
        elif how == "sequences":
            found |= {one[1] for one in value or () if _is_number(one[1])}
    return found


def renumbered(
    raw: Mapping[str, Any], numbers: Numbers, *, gone: frozenset[str] = frozenset(), where: object
) -> dict[str, Any]:
    """Return a configuration with new ids.

    Args:
        raw: The parsed file.
        numbers: New ids by old ones, of the tokens that stay.
        gone: Names in tables that leave, whatever becomes of their tokens.
        where: Its name, for messages.

    Raises:
        CheckpointError: A token that is needed leaves, or a key may hold ids in an unknown way.
    """
    made: dict[str, Any] = {}
    for key, value in raw.items():
        if _is_nested(key, value):
            made[key] = renumbered(value, numbers, gone=gone, where=where)
        elif key in KNOWN and value is not None:
            try:
                made[key] = _moved(KNOWN[key], value, numbers, gone)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise CheckpointError(
                    f"{key} names a token that the model would no longer have",
                    where=where,
                    found=f"{key} = {value!r}",
                    expected="tokens that stay",
                    hint="keep the token with --keep-tokens, or take the key out",
                ) from error
        else:
            _refuse_unknown(key, value, where)
            made[key] = value
    return made


def _entries(raw: Mapping[str, Any], where: object) -> Iterator[tuple[str, Any]]:
    """Yield every key that holds ids, at any depth."""
    for key, value in raw.items():
        if key in KNOWN:
            yield key, value
        elif _is_nested(key, value):
            yield from _entries(value, where)
        else:
            _refuse_unknown(key, value, where)


def _is_nested(key: str, value: Any) -> bool:
    return (
        isinstance(value, Mapping) and key not in (*KNOWN, *_OTHERS) and not _SAYS_IDS.search(key)
    )


def _moved(how: How, value: Any, numbers: Numbers, gone: frozenset[str]) -> Any:
    if how == "needed":
        if isinstance(value, Mapping):
            return {name: _moved(how, one, numbers, gone) for name, one in value.items()}
        if isinstance(value, list):
            return [_moved(how, one, numbers, gone) for one in value]
        return value if value is None else numbers[value]
    if how == "named":
        return {
            name: numbers[one] for name, one in value.items() if one in numbers and name not in gone
        }
    if how == "sequences":
        return [[at, None if one is None else numbers[one]] for at, one in value]
    if how == "biased":
        return [
            [[numbers[one] for one in tokens], bias]
            for tokens, bias in value
            if set(tokens) <= numbers.keys()
        ]
    flat = [one for one in value if not isinstance(one, list) and one in numbers]
    nested = [one for one in value if isinstance(one, list) and set(one) <= numbers.keys()]
    return [numbers[one] for one in flat] + [[numbers[each] for each in one] for one in nested]


def _refuse_unknown(key: str, value: Any, where: object) -> None:
    """Refuse what may be ids: left as it is, it would name other tokens.

    Raises:
        CheckpointError: Names the key.
    """
    if key in _OTHERS or not _SAYS_IDS.search(key):
        return
    if _is_number(value) and _COUNTS.search(key):
        return
    if any(map(_is_number, leaves(value))):
        raise CheckpointError(
            f"{key} may name tokens by their ids, and nothing here knows how",
            where=where,
            found=f"{key} = {value!r}",
            expected="one of " + ", ".join(KNOWN),
            hint="take the key out where nothing needs it",
        )


def leaves(value: Any) -> Iterator[Any]:
    """Yield what is no list and no table in a parsed file, at any depth."""
    if isinstance(value, Mapping | list):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from leaves(one)
    else:
        yield value


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
