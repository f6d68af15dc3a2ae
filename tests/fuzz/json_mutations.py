"""Ways to spoil, or only to rewrite, a JSON document: seeded, one change a call."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

Place = tuple[Any, Any]
"""A container and the key or index of a value in it."""

WRONG = (None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.0)
WRONG_TOO = (float("nan"), float("inf"), "", "x", "1", "null", [], [1], [[]], {}, {"a": 1})
ODD_TEXTS = (
    "\0",
    "\x1b[31mred",
    "\u202egnp",
    "\ud800",  # half of a pair: no text in UTF-8
    "é\u0301\U0001f40d",
    "[bold]markup[/bold]",
    "a\nb\r\nc",
    "%s {0} ${HOME}",
    "x" * 100_000,
)
ODD_PATHS = (
    "../outside/other",
    "/outside",
    "a/b",
    "..\\other",
    "C:/other",
    ".",
    "..",
    "~",
    "file:x",
)
MARK = "@@mark@@"
DEEP, LONG_NUMBER, OVERFLOW = "@@deep@@", "@@digits@@", "@@overflow@@"
"""Stand for text that ``json.dumps`` cannot write."""


@dataclass(frozen=True)
class Mutated:
    """One changed file.

    Attributes:
        kind: The way it was changed.
        item: What was changed, as a message might name it.
        data: The new content.
        harmless: The meaning is the same, and every reader can see it.
    """

    kind: str
    item: str
    data: bytes
    harmless: bool = False


class NotApplicableError(Exception):
    """The document has nothing that this way could change."""


def mutate_json(rng: random.Random, data: bytes, focus: str | None = None) -> Mutated:
    """Change a JSON object in one way.

    Args:
        rng: Decides everything.
        data: The document; an object.
        focus: A key whose value is chosen more often, where it is there.
    """
    while True:
        kind = rng.choices(list(WAYS), [weight for _, weight in WAYS.values()])[0]
        document = json.loads(data)
        try:
            found = WAYS[kind][0](rng, document, focus)
        except NotApplicableError:
            continue
        if found.data != data:
            return replace(found, kind=kind)


def walk(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """Yield path, container and key of every value inside a document."""
    children = value.items() if isinstance(value, dict) else ()
    children = enumerate(value) if isinstance(value, list) else children
    for key, child in children:
        yield (*path, key), value, key
        yield from walk(child, (*path, key))


def dotted(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


def pick(
    rng: random.Random,
    document: Any,
    focus: str | None,
    fits: Callable[[Any, Any], bool] = lambda container, key: True,
) -> tuple[str, Any, Any]:
    """Choose a value: half the time at the top, else anywhere, levels alike."""
    places = [place for place in walk(document) if fits(place[1], place[2])]
    if focus is not None and rng.random() < 0.5:
        places = [place for place in places if place[0][0] == focus] or places
        levels = sorted({len(path) for path, _, _ in places})
        if levels:  # sites are many and deep: the few keys above them would never be chosen
            level = rng.choice(levels)
            places = [place for place in places if len(place[0]) == level]
    elif rng.random() < 0.6:
        places = [place for place in places if len(place[0]) == 1] or places
    if not places:
        raise NotApplicableError
    path, container, key = rng.choice(places)
    return dotted(path), container, key


def written(document: Any, **options: Any) -> bytes:
    text = json.dumps(document, **({"indent": 2} | options))
    text = text.replace(f'"{DEEP}"', "[" * 20_000 + "]" * 20_000)
    text = text.replace(f'"{LONG_NUMBER}"', "9" * 5_000).replace(f'"{OVERFLOW}"', "1e999")
    return text.encode()


def _named(item: str, document: Any) -> Mutated:
    return Mutated("", item, written(document))


def _type(rng: random.Random, document: Any, focus: str | None) -> Mutated:
    item, container, key = pick(rng, document, focus)
    container[key] = copy.deepcopy(rng.choice(WRONG + WRONG_TOO))
    return _named(item, document)


def _number(rng: random.Random, document: Any, focus: str | None) -> Mutated:
    item, container, key = pick(
        rng, document, focus, lambda c, k: type(c[k]) in (int, float) and c[k] == c[k]
    )
    value = container[key]
    near = (value + 1, value - 1, 2 * value, value // 2, -value, 0, float(value), value + 0.5)
    container[key] = rng.choice((*near, str(value), 1e308, -1e308, 1e-320, LONG_NUMBER, OVERFLOW))
    return _named(item, document)


def _text(rng: random.Random, document: Any, focus: str | None) -> Mutated:
    item, container, key = pick(rng, document, focus, lambda c, k: isinstance(c[k], str))
    value = container[key]
    near = (value + " ", value.upper(), value[:-1], value + "\0", value + value)
    container[key] = rng.choice(near + ODD_TEXTS + ODD_PATHS)
    return _named(item, document)


def _digest(rng: random.Random, document: Any, focus: str | None) -> Mutated:
    item, container, key = pick(
        rng, document, focus, lambda c, k: isinstance(c[k], str) and len(c[k]) == 64
    )
    value = container[key]
    other = ("0" if value[0] != "0" else "1") + value[1:]
    container[key] = rng.choice((other, value[::-1], value.upper(), value[:63], "0" * 64))
    return _named(item, document)


def _missing(rng: random.Random, document: Any, focus: str | None) -> Mutated:
    item, container, key = pick(rng, document, focus)
    del container[key]
    return _named(item, document)


def _renamed(rng: random.Random, document: Any, focus: str | None) -> Mutated:
    item, container, key = pick(rng, document, focus, lambda c, k: isinstance(k, str))
    changed = rng.choice((key + "_", key.upper(), key[1:], key + "\0", "model." + key))
    pairs = [(changed if name == key else name, value) for name, value in container.items()]
    container.clear()
    container.update(pairs)
    return _named(item, document)


def _unknown(rng: random.Random, document: Any, focus: str | None) -> Mutated:
    places = [document, *(c[k] for _, c, k in walk(document) if isinstance(c[k], dict))]
    name = rng.choice(("unknown", "x.y", "", "__class__", "torch_dtype_", *ODD_TEXTS, *ODD_PATHS))
    rng.choice(places)[name] = rng.choice(WRONG + WRONG_TOO)
    return _named(name, document)


def _duplicate(rng: random.Random, document: Any, focus: str | None) -> Mutated:
    """Name a key twice, with another value first or last: readers may differ in which counts."""
    item, container, key = pick(rng, document, focus, lambda c, k: isinstance(k, str))
    others = (copy.deepcopy(container[key]), *WRONG, *WRONG_TOO)
    pairs = [*container.items()]
    pairs.insert(rng.choice((0, len(pairs))), (MARK, rng.choice(others)))
    container.clear()
    container.update(pairs)
    text = written(document).replace(f'"{MARK}"'.encode(), json.dumps(key).encode())
    return Mutated("", item, text)


def _swapped(rng: random.Random, document: Any, focus: str | None) -> Mutated:
    item, container, key = pick(rng, document, focus, lambda c, k: len(c) > 1)
    keys = list(container) if isinstance(container, dict) else range(len(container))
    other = rng.choice([name for name in keys if name != key])
    container[key], container[other] = container[other], container[key]
    return _named(item, document)


def _list(rng: random.Random, document: Any, focus: str | None) -> Mutated:
    item, container, key = pick(rng, document, focus, lambda c, k: isinstance(c[k], list))
    value = container[key]
    longer, more = [*value, *(value[-1:] or [1])], [*value, rng.choice(WRONG + WRONG_TOO)]
    container[key] = rng.choice((value[1:], value[::-1], longer, more, [value], value * 1_000))
    return _named(item, document)


def _nested(rng: random.Random, document: Any, focus: str | None) -> Mutated:
    item, container, key = pick(rng, document, focus)
    value = container[key]
    container[key] = rng.choice(([value], {"value": value}, DEEP))
    return _named(item, document)


def _layout(rng: random.Random, document: Any, focus: str | None) -> Mutated:
    """Write the same document in another way."""
    keys = list(document)
    rng.shuffle(keys)
    shuffled = {key: document[key] for key in keys}
    options: Any = rng.choice(
        ({"indent": None}, {"indent": 7}, {"separators": (" ,", " : ")}, {"ensure_ascii": False})
    )
    text = written(rng.choice((document, shuffled)), **options)
    return Mutated(
        "", "", rng.choice((b"", b" \n\t" * 50)) + text + rng.choice((b"", b"\n\n")), True
    )


def _bytes(rng: random.Random, document: Any, focus: str | None) -> Mutated:
    """Change the file as bytes."""
    text = written(document)
    at, junk = rng.randrange(len(text)), rng.randrange(1, 256)
    spoilt = (
        text[:at],
        text[:at] + bytes([text[at] ^ junk]) + text[at + 1 :],
        text[:at] + bytes([junk]) + text[at:],
        text[:at] + text[at + 1 :],
        text + b"{}",
        b"",
        b"\xef\xbb\xbf" + text,
        text.decode().encode("utf-16"),
        b"// comment\n" + text,
        text.replace(b'"', b"'"),
        text.rstrip()[:-1] + b",}",
        b"[" + text + b"]",
        b"null",
        b"[" * 200_000,
        b'{"a":' * 50_000,
    )
    return Mutated("", "", rng.choice(spoilt))


WAYS: dict[str, tuple[Callable[[random.Random, Any, str | None], Mutated], int]] = {
    "wrong type": (_type, 5),
    "another number": (_number, 5),
    "odd text": (_text, 3),
    "another hash": (_digest, 1),
    "missing key": (_missing, 3),
    "renamed key": (_renamed, 2),
    "unknown key": (_unknown, 2),
    "duplicate key": (_duplicate, 2),
    "swapped values": (_swapped, 2),
    "changed list": (_list, 2),
    "nested value": (_nested, 1),
    "layout only": (_layout, 1),
    "spoilt bytes": (_bytes, 3),
}
"""Name to way and how often it is chosen."""
