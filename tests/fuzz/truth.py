"""What a spoilt checkpoint computes: by transformers or PEFT alone, where they can say it."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from surgery.engine.merge import merge
from surgery.stored.loading import load
from tests.engine.support import run
from tests.fuzz.cases import Case, Place
from tests.fuzz.subjects import INDEX
from tests.models import model_class
from tests.runtime.naive import relative_error

CLOSE = 1e-3  # relative; everything is in float32, and what is wrong is wrong by much more
OURS = ("surgery", "auto_map", "architectures", "dtype", "torch_dtype", "transformers_version")
"""What a command may write anew in config.json."""


class WrongError(Exception):
    """A success that is none."""


@contextlib.contextmanager
def _quietly(what: str) -> Iterator[None]:
    """Turn whatever another library raises into a :class:`WrongError`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except WrongError:
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            raise WrongError(f"{what}: {text[:200]}") from error


def stored_tensors(directory: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in sorted(directory.glob("*.safetensors")):
        found |= load_file(file)
    return found


def same_bytes(one: Tensor, other: Tensor) -> bool:
    return (
        one.shape == other.shape
        and one.numpy(force=True).tobytes() == other.numpy(force=True).tobytes()
        if one.dtype != torch.bfloat16
        else torch.equal(one, other)
    )


def compare(
    found: Tensor | None, expected: Tensor | None, whose: str, close: float = CLOSE
) -> None:
    if expected is None or found is None or found.shape != expected.shape:
        raise WrongError(f"logits of another shape than {whose}")
    if not torch.equal(found.isnan(), expected.isnan()):
        raise WrongError(f"the result has NaN in other places than {whose}")
    error = relative_error(found.nan_to_num(), expected.nan_to_num())
    if error > close:
        raise WrongError(f"the result differs from {whose} by {error:.2g}")


def same_meaning(place: Place) -> bool:
    """Whether the spoilt file says what it said before."""
    old = place.corpus.subject(place.case.name) / place.case.file
    new = place.folder / place.case.file
    try:
        if old.suffix == ".safetensors" or old.name == "stats":
            before, after = load_file(old), load_file(new)
            return (
                before.keys() == after.keys()
                and all(
                    before[name].dtype == after[name].dtype
                    and same_bytes(before[name], after[name])
                    for name in before
                )
                and old.name != "stats"
            )
        return _canonical(old.read_bytes()) == _canonical(new.read_bytes())
    except Exception:  # whatever cannot be read does not say the same
        return False


def _canonical(data: bytes) -> str:
    return json.dumps(json.loads(data.decode("utf-8")), sort_keys=True)


def by_transformers(directory: Path, case: Case) -> Tensor:
    """Return what transformers alone computes with a dense directory.

    Raises:
        WrongError: It cannot load it, whole.
    """
    names = {
        "ForCausalLM": transformers.AutoModelForCausalLM,
        "LMHeadModel": transformers.AutoModelForCausalLM,
        "ForMaskedLM": transformers.AutoModelForMaskedLM,
        "ForConditionalGeneration": transformers.AutoModelForSpeechSeq2Seq,
    }
    own = model_class(case.subject.family).__name__
    auto: Any = next((a for end, a in names.items() if own.endswith(end)), transformers.AutoModel)
    options = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
    with _quietly("transformers refuses it"), _readable(directory, case) as directory:
        model, info = auto.from_pretrained(directory, dtype=torch.float32, **options)
        if info["missing_keys"]:
            raise WrongError(f"transformers misses {sorted(info['missing_keys'])[:3]}")
        return run(model.eval())


@contextlib.contextmanager
def _readable(directory: Path, case: Case) -> Iterator[Path]:
    """Yield a copy without what transformers reads beside the model, where that was spoilt."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(shutil.copytree(directory, Path(temporary) / "model"))
        (copy / "generation_config.json").unlink(missing_ok=True)
        if case.file.endswith(INDEX) and (copy / INDEX).exists():
            index = json.loads((copy / INDEX).read_bytes())
            (copy / INDEX).write_text(json.dumps(index | {"metadata": {}}))
        yield copy


def by_ours(directory: Path, case: Case | None = None) -> Tensor:
    """Return what a directory computes by our runtime: as the subject's own class, given a case."""
    with _quietly("surgery.load refuses it"):
        own = None if case is None else model_class(case.subject.family)
        return run(load(directory, model_class=own))


def by_peft(place: Place) -> Tensor:
    import peft

    with _quietly("PEFT refuses it"):
        base: Any = model_class(place.case.subject.family)
        model = base.from_pretrained(place.folder / "in", dtype=torch.float32)
        adapter = shutil.copytree(place.folder / "adapter", place.whole / "adapter")
        file = adapter / "adapter_config.json"
        # Settings that are off, and what is only a label, decide nothing: PEFT may refuse them.
        settings = json.loads(file.read_bytes())
        settings = {key: value for key, value in settings.items() if value or type(value) is int}
        file.write_text(json.dumps(settings | {"task_type": None}))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            adapted = peft.PeftModel.from_pretrained(model, adapter)
        if missing := [str(one.message) for one in told if "missing" in str(one.message)]:
            raise WrongError(f"PEFT: {missing[0][:100]}")
        return run(adapted.eval())


def by_merging(place: Place) -> Tensor:
    """Return what the merged subject computes once config.json is changed in the same way."""
    folder = place.whole / "merged"
    merge(place.corpus.subject(place.case.name) / "in", folder)
    config = json.loads((folder / "config.json").read_bytes())
    old, new = (json.loads(data) for data in before_and_after(place))
    for key in old.keys() | new.keys():
        if key not in OURS and old.get(key) != new.get(key):
            config.pop(key, None)
            config |= {key: new[key]} if key in new else {}
    (folder / "config.json").write_text(json.dumps(config))
    try:
        return by_transformers(folder, place.case)
    finally:
        shutil.rmtree(folder)


def before_and_after(place: Place) -> Iterator[bytes]:
    yield (place.corpus.subject(place.case.name) / place.case.file).read_bytes()
    yield (place.folder / place.case.file).read_bytes()


def changes(old: Any, new: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths at which two JSON values differ."""
    alike = type(old) is type(new) and isinstance(old, dict | list)
    if alike and (isinstance(old, dict) or len(old) == len(new)):
        before, after = (
            value if isinstance(value, dict) else dict(enumerate(value)) for value in (old, new)
        )
        return [
            each
            for key in [*before, *(key for key in after if key not in before)]
            for each in (
                changes(before[key], after[key], (*path, key))
                if key in before and key in after
                else [(*path, key)]
            )
        ]
    return [] if (alike and old == new) or (type(old), old) == (type(new), new) else [path]
