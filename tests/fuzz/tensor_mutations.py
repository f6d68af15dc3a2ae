"""Ways to spoil, or only to rewrite, a safetensors file: seeded, one change a call."""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from tests.fuzz.json_mutations import ODD_PATHS, ODD_TEXTS, Mutated, NotApplicableError, mutate_json

WIDTHS = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U8": 1}
CASTS = (torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.bool)


class File:
    """A safetensors file taken apart: header as JSON, and the bytes behind it."""

    def __init__(self, data: bytes) -> None:
        (length,) = struct.unpack("<Q", data[:8])
        self.header: dict[str, Any] = json.loads(data[8 : 8 + length])
        self.text, self.body = data[8 : 8 + length], data[8 + length :]

    @property
    def names(self) -> list[str]:
        return [name for name in self.header if name != "__metadata__"]

    def one(self, rng: random.Random) -> tuple[str, dict[str, Any]]:
        name = rng.choice(self.names)
        return name, self.header[name]

    def whole(self, text: bytes | None = None, *, length: int | None = None) -> bytes:
        """Put the file together, with this text or the header as it stands."""
        text = json.dumps(self.header).encode() if text is None else text
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text) if length is None else length) + text + self.body


def mutate_tensors(rng: random.Random, data: bytes) -> Mutated:
    """Change a safetensors file in one way."""
    while True:
        kind = rng.choices(list(WAYS), [weight for _, weight in WAYS.values()])[0]
        try:
            found = WAYS[kind][0](rng, data)
        except (NotApplicableError, SafetensorError):  # what was half written does not load
            continue
        if found.data != data:
            return replace(found, kind=kind)


def _length(rng: random.Random, data: bytes) -> Mutated:
    file = File(data)
    right = len(file.text)
    wrong = (
        0,
        1,
        2,
        right - 1,
        right + 1,
        right - 8,
        right + 8,
        len(data),
        2**31,
        2**63,
        2**64 - 1,
    )
    length = rng.choice((*wrong, 100_000_001, rng.randrange(2 * right)))
    return Mutated("", "", struct.pack("<Q", length) + data[8:])


def _offsets(rng: random.Random, data: bytes) -> Mutated:
    file = File(data)
    name, entry = file.one(rng)
    begin, end = entry["data_offsets"]
    other = file.header[rng.choice(file.names)]["data_offsets"]
    entry["data_offsets"] = rng.choice(
        (
            [begin + 1, end + 1],
            [begin - 1, end - 1],
            [begin + 4, end],
            [begin, end + 4],
            [end, begin],
            [begin, begin],
            [begin + len(file.body), end + len(file.body)],
            [begin + 2**62, end + 2**62],
            [-(end - begin), 0],
            [float(begin), float(end)],
            [str(begin), str(end)],
            [begin, end, end],
            [begin],
            None,
            other,
        )
    )
    return Mutated("", name, file.whole())


def _dtype(rng: random.Random, data: bytes) -> Mutated:
    file = File(data)
    name, entry = file.one(rng)
    alike = [each for each, width in WIDTHS.items() if width == WIDTHS.get(entry["dtype"])]
    odd = (*WIDTHS, *alike * 2, "f32", "F8_E4M3", "F4", "C64", "", "Q4_0", None, 32, ["F32"])
    entry["dtype"] = rng.choice(odd)
    return Mutated("", name, file.whole())


def _shape(rng: random.Random, data: bytes) -> Mutated:
    file = File(data)
    name, entry = file.one(rng)
    shape = entry["shape"]
    entry["shape"] = rng.choice(
        (
            shape[::-1],
            [math.prod(shape)],
            [1, *shape],
            [*shape, 1],
            [-1, *shape[1:]],
            [-side for side in shape],
            [*shape, 0],
            [2**32, 2**32],
            [2**63, *shape],
            [float(side) for side in shape],
            [str(side) for side in shape],
            [True, *shape],
            [],
            None,
            "all",
            [shape],
        )
    )
    return Mutated("", name, file.whole())


def _name(rng: random.Random, data: bytes) -> Mutated:
    """Rename a tensor, in place."""
    file = File(data)
    name, _ = file.one(rng)
    near = (name + "_", name.replace("0", "1"), name.replace("weight", "bias"), name[:-1], name[1:])
    far = ("", ".", name + ".weight", "model." + name, "lm_head.weight", "a.q_norm.weight")
    changed = rng.choice((*near, *far, *ODD_TEXTS, *ODD_PATHS))
    header = {changed if each == name else each: entry for each, entry in file.header.items()}
    return Mutated("", name, file.whole(json.dumps(header).encode()))


def _twice(rng: random.Random, data: bytes) -> Mutated:
    """Name a tensor twice in the header."""
    file = File(data)
    name, entry = file.one(rng)
    twice = rng.choice((entry, {**entry, "shape": [0]}, file.one(rng)[1]))
    text = json.dumps(file.header)[:-1] + f", {json.dumps(name)}: {json.dumps(twice)}}}"
    return Mutated("", name, file.whole(text.encode()))


def _cut(rng: random.Random, data: bytes) -> Mutated:
    file, at = File(data), rng.randrange(len(data))
    longer, hole = data + b"\0" * rng.choice((1, 4, 4096)), file.whole() + data[:at]
    ends = (data[:at], data[:-1], data[:-4], data[: rng.randrange(9)], data[: 8 + len(file.text)])
    return Mutated("", "", rng.choice((*ends, longer, hole)))


def _tensors(rng: random.Random, data: bytes) -> Mutated:
    """Write a sound file of other tensors: one gone, one more, one cast, one resized."""
    tensors = dict(sorted(load(data).items()))  # the library gives them in any order
    name = rng.choice(list(tensors))
    value = tensors[name]
    way = rng.choice(("gone", "more", "cast", "wider", "narrower", "empty", "scalar", "integers"))
    if way == "gone":
        del tensors[name]
    elif way == "more":
        extra = name.replace("0", "7") if rng.random() < 0.5 else name.rpartition(".")[0] + ".more"
        tensors[extra] = torch.ones_like(value)
    elif way == "cast":
        tensors[name] = value.to(rng.choice(CASTS))
    elif way == "wider":
        tensors[name] = torch.cat([value, value])
    elif way == "narrower":
        tensors[name] = value[: len(value) // 2].clone()
    elif way == "empty":
        tensors[name] = value[:0].clone()
    elif way == "scalar":
        tensors[name] = value.flatten()[0].clone() if value.numel() else torch.zeros(())
    else:
        tensors[name] = torch.ones(value.shape, dtype=torch.int64)
    return Mutated("", name, save(tensors, File(data).header.get("__metadata__")))


def _values(rng: random.Random, data: bytes) -> Mutated:
    """Change numbers only: what the file says of itself stays right."""
    tensors = {name: tensor.clone() for name, tensor in sorted(load(data).items())}
    name = rng.choice(
        [n for n, t in tensors.items() if t.is_floating_point() and t.numel()] or [""]
    )
    if not name:
        raise NotApplicableError
    flat = tensors[name].reshape(-1)
    way = rng.choice(("nan", "inf", "zero", "huge", "tiny", "scaled", "bit"))
    at = rng.randrange(flat.numel())
    if way == "bit":
        raw = flat.view(torch.uint8)
        raw[rng.randrange(raw.numel())] ^= 1 << rng.randrange(8)
    elif way in ("zero", "tiny", "scaled"):
        flat *= {"zero": 0.0, "tiny": 1e-30, "scaled": 2.0}[way]
    else:
        most = torch.finfo(flat.dtype).max
        flat[at] = {"nan": math.nan, "inf": math.inf, "huge": most}[way]
    return Mutated("", name, save(tensors, File(data).header.get("__metadata__")))


def _exchanged(rng: random.Random, data: bytes) -> Mutated:
    """Let two tensors of one shape change places: a valid file of another model."""
    file = File(data)
    name, entry = file.one(rng)
    like = (entry["dtype"], entry["shape"])
    others = [
        each
        for each in file.names
        if each != name and (file.header[each]["dtype"], file.header[each]["shape"]) == like
    ]
    if not others:
        raise NotApplicableError
    other = file.header[rng.choice(others)]
    entry["data_offsets"], other["data_offsets"] = other["data_offsets"], entry["data_offsets"]
    return Mutated("", name, file.whole())


def _order(rng: random.Random, data: bytes) -> Mutated:
    """Write the same tensors with another header: order, spaces, and what else it may hold."""
    file = File(data)
    keys = list(file.header)
    rng.shuffle(keys)
    header = {key: file.header[key] for key in keys}
    text = json.dumps(header, indent=rng.choice((None, 1))).encode()
    return Mutated("", "", file.whole(text + b" " * rng.choice((0, 8, 1_000_000))), harmless=True)


def _metadata(rng: random.Random, data: bytes) -> Mutated:
    file = File(data)
    odd = (None, [], "pt", {"format": "tf"}, {"format": 1}, {"a": None}, {"a": "b" * 100_000}, {})
    file.header["__metadata__"] = rng.choice((*odd, {text: text for text in ODD_TEXTS}))
    return Mutated("", "__metadata__", file.whole())


def _header(rng: random.Random, data: bytes) -> Mutated:
    """Treat the header as any other JSON."""
    file = File(data)
    found = mutate_json(rng, file.text)
    return replace(found, data=file.whole(found.data), harmless=False)


WAYS: dict[str, tuple[Callable[[random.Random, bytes], Mutated], int]] = {
    "header length": (_length, 2),
    "offsets": (_offsets, 3),
    "dtype": (_dtype, 2),
    "shape": (_shape, 3),
    "tensor name": (_name, 3),
    "tensor named twice": (_twice, 1),
    "cut or longer": (_cut, 2),
    "other tensors": (_tensors, 4),
    "other values": (_values, 2),
    "tensors exchanged": (_exchanged, 2),
    "order only": (_order, 1),
    "metadata": (_metadata, 1),
    "header as JSON": (_header, 4),
}
"""Name to way and how often it is chosen."""
