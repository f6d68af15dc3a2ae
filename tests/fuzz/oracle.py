"""Whether what came of a case is an error of ours or the right result."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from tests.fuzz.cases import CONTROL, LONGEST_MESSAGE, Case, Outcome, Place
from tests.fuzz.truth import (
    CLOSE,
    OURS,
    WrongError,
    before_and_after,
    by_merging,
    by_ours,
    by_peft,
    by_transformers,
    changes,
    compare,
    same_bytes,
    same_meaning,
    stored_tensors,
)

HALVES_CLOSE = 0.2  # where a tensor was made half precision
REFUSED, RIGHT, FAULT = "refused", "right", "fault"
BESIDE = ("generation_config.json", "preprocessor_config.json", "tokenizer.json")
"""Files that decide nothing of what is written: weights are as before."""
OTHERWISE = ("scale", "rope_pairs", "offset", "blocks", "shared")
"""Entries of a site that make another valid model."""
SILENT = ("options", "provenance", "trained", "name")
"""Parts of a manifest that are there to be shown."""


@dataclass(frozen=True)
class Verdict:
    """``refused``, ``right`` or ``fault``, and why; ``named``: the error names what was spoilt."""

    kind: str
    why: str = ""
    named: bool = True


def judge(place: Place, outcome: Outcome) -> Verdict:
    """Judge what came of a case."""
    case = place.case
    if outcome.code is None:
        return Verdict(FAULT, _last_lines(outcome.trace))
    if strays := place.strays(failed=outcome.code != 0):
        return Verdict(FAULT, f"touched {strays[:3]}")
    if outcome.code != 0:
        return _judge_refusal(place, outcome)
    if found := CONTROL.search(outcome.output):
        return Verdict(FAULT, f"prints the control character {found[0]!r}")
    try:
        if same_meaning(place):
            _as_before(place, outcome)
        else:
            _judge_success(place, outcome)
    except WrongError as wrong:
        notes = [line for line in outcome.output.splitlines() if line.startswith("note: ")]
        if _names(case, "\n".join(notes)):
            return Verdict(RIGHT, "noted")
        return Verdict(FAULT, f"silent success: {wrong}")
    return Verdict(RIGHT)


def _judge_refusal(place: Place, outcome: Outcome) -> Verdict:
    case, output = place.case, outcome.output
    told = output
    if "--json" in case.words:
        try:
            document = json.loads(outcome.printed, parse_constant=_no_json)
        except ValueError:
            return Verdict(FAULT, "an error that is no JSON document")
        if "error" in document:  # verify prints its figures, and the error beside them
            told = "error: " + "\n".join(str(value) for value in document["error"].values())
    if "error: " not in told:
        return Verdict(FAULT, f"exit code {outcome.code} without an error: {told[-200:]}")
    if len(output) > LONGEST_MESSAGE:
        return Verdict(FAULT, f"an error of {len(output)} characters")
    if found := CONTROL.search(output):
        return Verdict(FAULT, f"prints the control character {found[0]!r}")
    if case.change.harmless and not case.file.startswith("base/"):
        before, _ = place.baseline
        if before.code == 0:
            return Verdict(FAULT, f"refuses what says the same in another way: {told[:300]}")
    return Verdict(REFUSED, told, _names(case, told))


def _names(case: Case, told: str) -> bool:
    """Whether a text names the file that was spoilt, or what in it."""
    words = " ".join(told.split())
    last = case.change.item.rpartition(".")[2]
    return Path(case.file).name in words or (len(last) > 1 and last[:60] in words)


def _as_before(place: Place, outcome: Outcome) -> None:
    """Require what the same command gives on the subject as it was."""
    before, folder = place.baseline
    if before.code != 0:
        raise WrongError("the subject as it was is refused")
    if place.case.command == "load":
        compare(outcome.logits, before.logits, "the model as it was")
    if (folder / "out").is_dir():
        ours, theirs = (stored_tensors(each / "out") for each in (place.folder, folder))
        if ours.keys() != theirs.keys():
            raise WrongError("other tensors than of the subject as it was")
        for name in ours:
            if not same_bytes(ours[name], theirs[name]):
                raise WrongError(f"{name} differs from that of the subject as it was")
    elif _settled(outcome.printed) != _settled(before.printed):
        raise WrongError("the output differs from that of the subject as it was")


def _settled(printed: str) -> str:
    """Return what was printed without what changes from run to run."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: strip(each)
                for key, each in value.items()
                if key not in ("sha256", "seconds") and "time" not in key
            }
        return [strip(each) for each in value] if isinstance(value, list) else value

    return json.dumps(strip(json.loads(printed))) if printed.startswith(("{", "[")) else ""


def _judge_success(place: Place, outcome: Outcome) -> None:
    """Require the right result of a checkpoint that says something else than before.

    Raises:
        WrongError: It is not.
    """
    case = place.case
    kind, command = case.subject.kind, case.command
    if "--json" in case.words:
        try:
            json.loads(outcome.printed, parse_constant=_no_json)
        except ValueError as error:
            raise WrongError(f"the output is no JSON document: {error}") from error
    running = ("evaluate", "verify", "export", "tune", "absorb-decompose --calibrate", "compress")
    beside = case.file.endswith(BESIDE) and not command.startswith(running)
    if kind == "finished" and case.change.kind in ("other values", "tensors exchanged"):
        return  # what is there already is known by its names and shapes
    if kind in ("interrupted", "finished") or beside:
        _as_before(place, outcome)
    elif command.startswith(("inspect", "export --list")) or command.endswith("--dry-run"):
        _judge_reading(place, outcome)
    elif command == "load":
        _judge_load(place, outcome)
    elif kind == "statistics":
        _result(place)
    elif command == "import":
        compare(_result(place), by_peft(place), "PEFT's own")
    elif command == "refresh":
        if case.change.kind != "other values":  # it reads no weights
            _truth(place)
    elif command.startswith(("verify", "evaluate")):
        _judge_comparison(place, outcome)
    elif command.startswith("compress"):
        truth, found = _truth(place), by_transformers(place.folder / "out", case)
        if found.shape != truth.shape:
            raise WrongError("logits of another shape than the checkpoint's own")
    elif command == "tune" or command.startswith("export"):
        truth = _truth(place)
        if command == "export hf":
            compare(by_transformers(place.folder / "out", case), truth, "the checkpoint's own")
    else:
        truth, found = _truth(place), _result(place)
        if "--remove" not in case.words:
            compare(found, truth, "the checkpoint's own", _tolerance(place))
        _check_carried(place)


def _tolerance(place: Place) -> float:
    halves = (torch.float16, torch.bfloat16)
    try:
        dtypes = {tensor.dtype for tensor in stored_tensors(place.folder / "in").values()}
    except Exception:
        return CLOSE
    return HALVES_CLOSE if dtypes & set(halves) else CLOSE


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _truth(place: Place) -> Tensor:
    """Return what the spoilt checkpoint computes, by transformers alone where it can be."""
    kind = place.case.subject.kind
    if kind == "dense":
        return by_transformers(place.folder / "in", place.case)
    return by_ours(place.folder / ("adapter" if kind == "adapter" else "in"))


def _result(place: Place) -> Tensor:
    # Where no class is named, more than one may have what is stored.
    classless = place.case.change.item.startswith("architectures")
    return by_ours(place.folder / "out", place.case if classless else None)


def _judge_reading(place: Place, outcome: Outcome) -> None:
    """Reading is right if the model runs, or if nothing that was read had changed."""
    try:
        if place.case.subject.kind != "statistics":
            _truth(place)
    except WrongError:
        before, _ = place.baseline
        if _settled(before.printed) != _settled(outcome.printed):
            raise


def _judge_comparison(place: Place, outcome: Outcome) -> None:
    """A comparison is right if the model runs, and shows where its weights changed."""
    case = place.case
    before, _ = place.baseline
    trained = case.subject.kind == "adapter"  # whose tensors differ from the base's in any case
    if case.file.endswith(".safetensors") and outcome.printed == before.printed and not trained:
        raise WrongError("weights differ, and the comparison does not show it")
    if "--weights-only" not in case.words or case.file.endswith(".safetensors"):
        _truth(place)


def _judge_load(place: Place, outcome: Outcome) -> None:
    """Judge a loaded model: by transformers alone, by what changed, and tensor by tensor."""
    case, kind = place.case, place.case.subject.kind
    assert outcome.state is not None
    if outcome.logits is None:
        if kind == "adapter":
            raise WrongError("it was loaded, and does not run")
        try:
            _truth(place) if kind == "dense" else by_merging(place)
        except WrongError:
            return  # no more than with transformers alone
        raise WrongError("it does not run, and transformers' own does")
    if kind == "dense":
        compare(outcome.logits, _truth(place), "transformers' own")
        return
    if case.file.endswith(".safetensors"):
        stored = stored_tensors((place.folder / case.file).parent)
        state = {_bare(name): tensor for name, tensor in outcome.state.items()}
        for name, tensor in stored.items():
            if not torch.equal(state[_bare(name)].double(), tensor.double()):
                raise WrongError(f"{name} differs from the file's")
        return
    changed = changes(*(json.loads(data) for data in before_and_after(place)))
    if all(_only(path, SILENT) for path in changed):
        _as_before(place, outcome)
    elif all(path[0] not in ("surgery", "operation") for path in changed) and kind == "treated":
        compare(outcome.logits, by_merging(place), "the merged model's")
    elif case.file.startswith("base/"):
        by_transformers(place.folder / "base", case) if "surgery" not in _config(
            place, "base"
        ) else None
    elif not all(_only(path, OTHERWISE) or _only(path, SILENT) for path in changed):
        _as_before(place, outcome)


def _bare(name: str) -> str:
    return name.removeprefix("model.").removeprefix("transformer.").removeprefix("bert.")


def _only(path: tuple[Any, ...], parts: tuple[str, ...]) -> bool:
    return any(part in parts for part in path)


def _config(place: Place, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place.folder / name / "config.json").read_bytes())
    return found


def _check_carried(place: Place) -> None:
    """Require everything that config.json said, but what is ours, in the result's."""
    source = "base" if place.case.subject.kind == "adapter" else "in"
    before, after = _config(place, source), _config(place, "out")
    lost = [
        key
        for key, value in before.items()
        if key not in OURS and json.dumps(after.get(key)) != json.dumps(value)
    ]
    if lost:
        raise WrongError(f"config.json of the result differs: {lost[:3]}")


def _last_lines(trace: str) -> str:
    """Return the last frame of ours and the error."""
    lines = trace.strip().splitlines()
    frames = [line.strip() for line in lines if "/surgery/" in line or "/surgery_cli/" in line]
    where = frames[-1].rpartition("surgery")[2] if frames else "outside"
    where = frames[-1][frames[-1].rfind("surgery") :] if frames else where
    return f"{lines[-1][:200]} [{where}]" if lines else "nothing"
