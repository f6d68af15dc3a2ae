"""What an earlier release wrote, tests/data/format-1, still does all that it did.

Its ``make.py`` says how each was made, and by which commit. Nothing here computes what is expected:
logits and hashes were written down by that release.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, dynamic_module_utils
from typer.testing import CliRunner

import surgery
from surgery.methods import Remove
from surgery.report.card import to_card
from surgery.report.html import to_html
from surgery.report.serialise import from_json, to_json
from surgery_cli.main import app
from tests.engine.support import config_of, contents, tensors_of
from tests.runtime.naive import relative_error

DATA = Path(__file__).parent.parent / "data" / "format-1"
MADE = json.loads((DATA / "expected" / "made.json").read_text())
COMMANDS, MERGED = MADE["commands"], MADE["merged"]
SOURCES = {name: words.split()[1] for name, words in COMMANDS.items()}
SOURCES |= {"llama-sorsa-tuned": "llama-sorsa", "llama-core": "llama-calibrated"}
ADAPTERS = [name for name in MERGED if (DATA / name / "adapter.json").exists()]
EXACT = ("whisper-lossless", "llama-sorsa", "bert-hra", "gpt2-qgoft", "gpt2-cut-sorsa")

# Logits are sums of at most 32 products, of numbers that went through at most 32 such sums one
# after the other; each sum of n terms in float32 may be off by n units of rounding, in any order.
ROUNDING = 32 * 32 * 2.0**-24
# A weight of these files in its own dtype: what was split was rounded once more in being stored.
STORED = {"llama": 2.0**-23, "gpt2": 2.0**-10, "bert": 2.0**-10, "whisper": 2.0**-10}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy that may be written beside; of the data's place, two names are in the options."""
    place = tmp_path_factory.mktemp("old") / DATA.name
    shutil.copytree(DATA, place)
    before = contents(place)
    yield place
    after = contents(place)
    assert {name: after.get(name) for name in before} == before, "what was read was changed"


def expected(name: str) -> tuple[dict[str, Tensor], Tensor]:
    """What was put in, and the logits that the release which wrote it computed."""
    tensors = load_file(DATA / "expected" / f"{name}.safetensors")
    return tensors, tensors.pop("logits")


@torch.no_grad()
def difference(model: Any, name: str) -> float:
    given, logits = expected(name)
    return relative_error(model(**given).logits, logits)


def kept(sites: dict[str, Any]) -> dict[str, Any]:
    return {path: (site["qk_ranks"], site["v_ranks"]) for path, site in sites.items()}


@pytest.mark.parametrize("name", sorted({*MERGED, *SOURCES.values()}))
def test_it_computes_what_it_computed(name: str, old: Path) -> None:
    assert difference(surgery.load(old / name), name) < ROUNDING


@pytest.mark.parametrize("name", MERGED)
def test_it_verifies_against_its_source(name: str, old: Path) -> None:
    found = surgery.verify(old / SOURCES[name], old / name, weights_only=True)

    assert not found.changed
    if name in EXACT:
        assert found.worst < 16 * STORED[SOURCES[name].split("-")[0]]  # of a product of 16 terms
    else:
        assert 0.001 < found.worst < 1


@pytest.mark.parametrize("name", MERGED)
def test_it_merges_to_the_same_bytes(name: str, old: Path, tmp_path: Path) -> None:
    merged = surgery.merge(old / name, tmp_path / "merged")

    digest = hashlib.sha256((merged / "model.safetensors").read_bytes()).hexdigest()
    assert digest == MERGED[name]


@pytest.mark.parametrize("name", MERGED)
def test_it_exports_and_computes_the_same_there(name: str, old: Path, tmp_path: Path) -> None:
    exported = surgery.export_model(old / name, "hf", tmp_path / "hf")

    assert exported.comparison is not None


@pytest.mark.parametrize("name", MERGED)
def test_its_report_reads_and_renders(name: str) -> None:
    report = from_json((DATA / name / "report.json").read_text())

    assert from_json(to_json(report)) == report
    assert name in to_html(report)
    assert name in to_card(report)


@pytest.mark.parametrize("name", MERGED)
def test_asked_for_again_it_is_done_already(
    name: str, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(old)
    result = CliRunner().invoke(app, shlex.split(f"{COMMANDS[name]} -o {name} --json"))

    assert result.exit_code == 0, result.output
    assert any("Already done" in note for note in json.loads(result.stdout)["notes"])


def test_its_statistics_give_the_same_ranks(
    old: Path, tmp_path: Path, no_pictures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(old)
    ranks = json.loads((DATA / "llama.ranks.json").read_text())
    asked = surgery.Options(
        rule=Remove(0.25), calibrate=surgery.Calibrate(statistics="llama.statistics")
    )

    surgery.absorb_decompose("llama", tmp_path / "cut", options=asked)
    inspected = surgery.inspect("llama", options=asked)

    assert config_of(tmp_path / "cut")["surgery"]["operations"][0]["sites"] == ranks
    found = {site.path: (site.qk.ranks, site.vo.ranks) for site in inspected.sites}
    assert found == kept(ranks)


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_merged_adapter_computes_what_it_computed(name: str, old: Path, tmp_path: Path) -> None:
    surgery.merge(old / name, tmp_path / "on-its-base", steps=0)

    assert difference(surgery.load(tmp_path / "on-its-base"), name) < ROUNDING


def test_an_adapter_exports_to_peft_as_before(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    monkeypatch.chdir(old)
    words = shlex.split(COMMANDS["llama-peft"].removeprefix("export "))

    surgery.export_model(words[0], "peft", tmp_path / "peft", original=words[-1])

    settings = (each / "adapter_config.json" for each in (tmp_path / "peft", old / "llama-peft"))
    assert json.loads(next(settings).read_text()) == json.loads(next(settings).read_text())
    made, before = (tensors_of(each) for each in (tmp_path / "peft", old / "llama-peft"))
    assert made.keys() == before.keys()
    for a in (name for name in made if "lora_A" in name):  # factors of an SVD: up to signs
        b = a.replace("lora_A", "lora_B")
        assert relative_error(made[b] @ made[a], before[b] @ before[a]) < ROUNDING


def test_an_exported_peft_adapter_is_read(old: Path, tmp_path: Path, no_pictures: None) -> None:
    surgery.import_adapter(old / "llama", old / "llama-peft", tmp_path / "imported")

    assert difference(surgery.load(tmp_path / "imported"), "llama-peft") < ROUNDING


def test_its_code_renewed_it_runs_by_transformers_alone(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    shutil.copytree(old / "llama-calibrated", tmp_path / "renewed")

    assert surgery.refresh(tmp_path / "renewed")

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "renewed", trust_remote_code=True)
    assert difference(model, "llama-calibrated") < ROUNDING
