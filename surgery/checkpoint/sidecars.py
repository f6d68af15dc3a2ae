"""Which files beside the weights come along with a model, and copying them.

What transformers reads by name always does. So does whatever else is small and only said, never
run: sentence-transformers' ``modules.json`` and ``1_Pooling/``, a list of labels, notes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from surgery.checkpoint.disk import target_errors
from surgery.errors import first_few

TERMS = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "USE_POLICY*")
"""Terms the weights come under: they go wherever the weights go, in whatever form."""

PATTERNS: tuple[str, ...] = (
    # tokenizers
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "vocab.bpe",
    "merges.txt",
    "normalizer.json",
    "spiece.model",
    "sentencepiece*.model",
    "*.tiktoken",
    "tekken.json",
    "chat_template.json",
    "chat_template.jinja",
    # processors and generation
    "preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
    *TERMS,
)
"""Files of the model itself, whatever their size."""

WRITTEN = ("config.json", "README.md", "report.json", "report.html", "modeling_surgery.py")
"""What a result has of its own; the source's is not missed."""
STAGED = ("journal.jsonl", "lock", "work")
"""Names that a result has for other things while it is being written."""

LARGEST, MOST = 16 << 20, 64 << 20
"""Bytes of any other file or folder, and of all of them together."""
FILES = 256  # of a folder

CODE = "code"
PICKLE = "a pickle or an archive"
WEIGHTS = "weights in another form"
LINK = "a link to elsewhere"

_SUFFIXES = {
    CODE: ".py .pyc .pyd .ipynb .so .dll .dylib .exe .sh .bash .bat .cmd .ps1 .js .jar .pl .rb",
    PICKLE: ".pkl .pickle .bin .pt .pth .ckpt .joblib .dill .npy .npz .zip",
    WEIGHTS: ".safetensors .h5 .hdf5 .msgpack .gguf .ggml .onnx .onnx_data .tflite .pb .ot",
}
_OF_WEIGHTS = ("*.index.json", "*.index.*.json", "adapter_config.json", "adapter.json")
"""What says where other weights are: transformers would look for them."""
_HEADS = {
    CODE: (b"#!", b"\x7fELF", b"MZ"),
    PICKLE: (b"PK\x03\x04", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6))),
}
"""How the content of such a file begins, whatever it is called."""


@dataclass(frozen=True)
class Beside:
    """What lies beside a checkpoint's weights.

    Attributes:
        carried: Files that come along, by their path in the checkpoint.
        left_out: Why others do not; a folder's name ends in ``/``.
    """

    carried: tuple[str, ...]
    left_out: Mapping[str, str]

    @property
    def note(self) -> str | None:
        """What is left out, as a sentence; nothing where nothing is."""
        if not self.left_out:
            return None
        named = [f"{name} ({why})" for name, why in sorted(self.left_out.items())]
        return f"Beside the source's weights, and not carried over: {first_few(named, 8)}."


def is_sidecar(name: str) -> bool:
    """Whether a file of this bare name is one of the model itself."""
    return _forbidden(name) is None and any(fnmatchcase(name, pattern) for pattern in PATTERNS)


def is_terms(name: str) -> bool:
    """Whether a sidecar of this bare name says on what terms the weights are passed on."""
    return any(fnmatchcase(name, pattern) for pattern in TERMS)


def find_sidecars(directory: Path) -> list[Path]:
    """Files of the model itself in a checkpoint directory, by name."""
    return sorted(path for path in directory.iterdir() if is_sidecar(path.name) and path.is_file())


def find_beside(directory: Path, weights: Collection[str] = ()) -> Beside:
    """Sort out what lies in a checkpoint directory.

    Beyond :func:`sort_out`, a file is looked into, and a link is followed only within the directory
    (or to the blobs of a hub's cache, where all files are links).

    Args:
        directory: The checkpoint.
        weights: Names of its weight files and their index: those in use.
    """
    inside = [directory.resolve()]
    if inside[0].parent.name == "snapshots":
        inside.append(inside[0].parent.parent / "blobs")
    sizes: dict[str, int] = {}
    refused: dict[str, str] = {}
    for path in _listed(directory, refused):
        name = path.relative_to(directory).as_posix()
        try:
            if not path.is_file():
                refused[name] = "no plain file"
            elif is_sidecar(name) or not path.is_symlink() or _within(path, inside):
                sizes[name] = path.stat().st_size
            else:
                refused[name] = LINK
        except OSError:
            refused[name] = "cannot be read"
    found = sort_out(sizes, weights)
    carried = []
    for name in found.carried:
        why = None if is_sidecar(name) else _content(directory / name)
        if why is None:
            carried.append(name)
        else:
            refused[name] = why
    return Beside(tuple(carried), {**refused, **found.left_out})


def sort_out(sizes: Mapping[str, int], weights: Collection[str] = ()) -> Beside:
    """Say which files of a checkpoint come along, by their names and sizes.

    A folder with weights in it is a model of its own, or useless without them: it stays whole.
    Hidden files are no part of a model.

    Args:
        sizes: Bytes of every file, by its path in the checkpoint.
        weights: Names of the weight files and their index in use.
    """
    entries: dict[str, list[str]] = {}
    for name in sorted(sizes):
        parts = PurePosixPath(name).parts
        if not any(part.startswith(".") for part in parts):
            entries.setdefault(parts[0], []).append(name)
    carried = [name for name in entries if name in sizes and is_sidecar(name)]
    left_out: dict[str, str] = {}
    total = 0
    for entry, names in entries.items():
        if entry in carried or (entry in sizes and entry in (*WRITTEN, *weights)):
            continue
        folder = entry not in sizes
        why = _folder(names) if folder else _forbidden(entry)
        size = sum(sizes[name] for name in names)
        if why is None and size > LARGEST:
            why = f"more than {LARGEST >> 20} MB"
        if why is None and total + size > MOST:
            why = f"more than {MOST >> 20} MB together with the others"
        if why is None and entry in STAGED:
            why = "a name that surgery needs while it writes"
        if why is not None:
            left_out[f"{entry}/" if folder else entry] = why
            continue
        total += size
        codes = {name: CODE for name in names if _forbidden(name) == CODE}
        left_out |= codes
        carried += [name for name in names if name not in codes]
    return Beside(tuple(sorted(carried)), left_out)


def copy_sidecars(files: Iterable[Path], directory: Path, root: Path | None = None) -> list[str]:
    """Copy the files' contents (never links, never modes) into ``directory``.

    Args:
        files: What to copy.
        directory: Where to.
        root: Below which the files keep their places; by default each goes by its bare name.

    Returns:
        Their names in ``directory``.

    Raises:
        TargetError: A copy cannot be written.
    """
    written = []
    for path in files:
        name = path.name if root is None else path.relative_to(root).as_posix()
        target = directory / name
        with target_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        written.append(name)
    return written


def _folder(names: list[str]) -> str | None:
    if len(names) > FILES:
        return f"more than {FILES} files"
    holds = {WEIGHTS, PICKLE}.intersection(map(_forbidden, names))
    return "weights, a pickle or an archive in it" if holds else None


def _forbidden(name: str) -> str | None:
    """Return why a file of this name never comes along, if it does not."""
    bare = PurePosixPath(name).name.lower()
    for why, suffixes in _SUFFIXES.items():
        if bare.endswith(tuple(suffixes.split())):
            return why
    return WEIGHTS if any(fnmatchcase(bare, pattern) for pattern in _OF_WEIGHTS) else None


def _content(path: Path) -> str | None:
    """Return why a file never comes along by how it begins."""
    try:
        with path.open("rb") as stream:
            head = stream.read(4)
    except OSError:
        return "cannot be read"
    return next((why for why, heads in _HEADS.items() if head.startswith(heads)), None)


def _listed(directory: Path, refused: dict[str, str]) -> Iterator[Path]:
    """Yield every file that is not hidden; of a folder with too many, enough to say so."""

    def unreadable(error: OSError) -> None:
        refused[f"{Path(error.filename).relative_to(directory).as_posix()}/"] = "cannot be read"

    for entry in sorted(directory.iterdir()):
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            yield entry
        elif entry.is_symlink():
            refused[f"{entry.name}/"] = LINK
        else:
            count = 0
            for folder, folders, files in os.walk(entry, onerror=unreadable):
                linked = [name for name in folders if (Path(folder) / name).is_symlink()]
                for name in linked:
                    refused[f"{(Path(folder) / name).relative_to(directory).as_posix()}/"] = LINK
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                some = sorted(name for name in files if not name.startswith("."))[: FILES + 1]
                yield from (Path(folder) / name for name in some)
                count += len(some)
                if count > FILES:
                    break


def _within(path: Path, places: Collection[Path]) -> bool:
    target = path.resolve()
    return any(target.is_relative_to(place) for place in places)
