"""A plan tries every way, and its command makes what it told."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import surgery
from surgery.engine.compress import planning
from surgery.engine.compress.planning import Planning
from surgery.errors import UsageError, kept_by
from surgery.report.model.planned import ModelPlan
from surgery.report.quantised import int8_bytes, q8_0_bytes
from surgery.report.serialise import to_json
from surgery_cli.main import app
from surgery_cli.render_plan import plan_view
from tests.engine.support import contents, tensors_of
from tests.engine.test_compress import options, save

pytestmark = pytest.mark.usefixtures("no_pictures")


def planned(place: Path, name: str = "llama", **more: Any) -> ModelPlan:
    save(name, place / "source")
    before = contents(place / "source")
    given = {"remove": None, "of": "model", **more}
    found = surgery.plan(place / "source", options=options(place, name, **given))
    assert contents(place / "source") == before
    assert {one.name for one in place.iterdir()} == {"source", "text.txt"}  # nothing is written
    return found


def shown(found: ModelPlan) -> str:
    from rich.console import Console

    console = Console(width=80, record=True)
    with console.capture() as told:
        console.print(plan_view(found), crop=False)
    return " ".join(told.get().split())


def test_its_command_makes_what_it_told(tmp_path: Path) -> None:
    found = planned(tmp_path, target_parameters="15k")
    best = found.chosen
    assert best.told is not None and best.told.held_out is not None
    run = [one for one in found.tried if one.told is not None]
    assert len(run) >= 3
    assert best.told.measured == min(one.told.measured for one in run if one.told)  # type: ignore[type-var]
    assert all(one.rejected == "costs more" for one in run if one is not best)
    words = shlex.split(found.command)
    made = CliRunner().invoke(app, [*words[1:], "-o", str(tmp_path / "out"), "--json"])
    assert made.exit_code == 0, made.output
    report = json.loads(made.stdout)
    assert report["calibration"]["held_out"]["error"] == pytest.approx(
        json.loads(to_json(found))["tried"][found.tried.index(best)]["told"]["held_out"]["error"]
    )
    assert sum(one.numel() for one in tensors_of(tmp_path / "out").values()) == best.parameters
    assert (tmp_path / "out" / "model.safetensors").stat().st_size == best.bytes
    text = shown(found)
    assert found.command in text and "Rejected: costs more" in text and "As int8" in text


@pytest.mark.slow
def test_within_a_bound_the_way_that_takes_most_is_chosen(tmp_path: Path) -> None:
    found = planned(tmp_path, within="error+0.004", multiple=8)
    best = found.chosen
    assert best.told is not None and best.told.search
    assert best.told.measured is not None and best.told.measured <= 0.004
    able = [one for one in found.tried if one.told is not None and one.rejected[:6] != "breaks"]
    assert best.removed == max(one.removed or 0 for one in able)
    assert f"--target-parameters {best.parameters}" in found.command
    for one in found.tried:
        if one.rejected == "breaks the bound":
            assert one.told is not None and not one.told.search[-1].accepted


def test_what_was_priced_is_kept_and_an_interrupted_plan_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("llama", tmp_path / "source")
    asked, ran = options(tmp_path, "llama", remove=0.2, of="model"), list[str]()
    fit = Planning._try

    def tries(self: Planning, way: Any, beaten: float) -> Any:
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(f"{way.layout} {way.seams}")
        return fit(self, way, beaten)

    monkeypatch.setattr(Planning, "_try", tries)
    kept = tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt) as interrupted:
        surgery.plan(tmp_path / "source", options=asked, keep=kept)
    assert any("2 tried ways" in told for told in kept_by(interrupted.value))
    before = [*ran]
    ran[:] = [""]
    with pytest.raises(KeyboardInterrupt):
        surgery.plan(tmp_path / "source", options=asked, keep=kept)
    assert len(ran) == 2 and ran[1] not in before
    monkeypatch.setattr(Planning, "_try", fit)
    found = surgery.plan(tmp_path / "source", options=asked, keep=kept)
    monkeypatch.setattr(Planning, "_try", None)  # nothing is tried again
    again = surgery.plan(tmp_path / "source", options=asked, keep=kept)
    assert to_json(again) == to_json(found)


def test_a_way_without_hope_is_not_fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "HOPELESS", 0.0)
    found = planned(tmp_path, remove=0.2)
    rejected = [one for one in found.tried if one.rejected == planning.HOPELESS_WAY]
    assert [one.options["layout"] for one in rejected] == ["ragged", "ragged", "model"]
    assert all(one.told is None for one in rejected)
    assert "not fitted: ragged qk,vo,ffn,layers; ragged ffn; model ffn,layers" in shown(found)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"layout": "ragged"}, "finds this by itself"),
        ({"scope": "decoder"}, "finds this by itself"),
        ({"target_size": "1GB"}, "no larger than that"),
        ({"within": "WER+1"}, "hears and writes"),
    ],
)
def test_what_makes_no_sense_is_refused(more: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        planned(tmp_path, **more)


def test_what_nothing_reaches_is_refused_with_the_most(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Nothing that was tried") as refused:
        planned(tmp_path, target_parameters=5)
    assert (refused.value.found or "").count("at least") >= 3


def test_eight_bits_are_counted_as_runtimes_store_them() -> None:
    tensors = [((4, 64), 2), ((3, 10), 2), ((5,), 2)]
    assert int8_bytes(tensors) == (4 * 64 + 16) + (30 + 12) + 10
    assert q8_0_bytes(tensors) == 4 * 2 * 34 + 60 + 20
