"""How much goes, said as what is left: so many parameters or bytes, of one tower or all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import surgery
from surgery.checkpoint.resolve import resolve
from surgery.choices.common import SCOPES
from surgery.choices.targets import bytes_in, parameters_in
from surgery.engine.compress.attention import AttentionPart
from surgery.engine.compress.plan import make_plan
from surgery.errors import UsageError
from surgery.events import ignore
from tests.engine.support import config_of, tensors_of
from tests.engine.test_compress import options, save
from tests.engine.test_whole_budget import SEAMS

pytestmark = pytest.mark.usefixtures("no_pictures")


def aimed(place: Path, name: str, **more: Any) -> Any:
    source = place / "source"
    chosen = options(place, name, **{"remove": None, "of": "model", **more})
    return surgery.compress(
        source if source.exists() else save(name, source), place / "out", options=chosen
    )


@pytest.mark.parametrize(
    ("text", "number"),
    [("90M", 90_000_000), ("1.2B", 1_200_000_000), (" 37k ", 37_000), ("512", 512), (7, 7)],
)
def test_numbers_of_parameters_are_read(text: str | int, number: int) -> None:
    assert parameters_in(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("100MB", 100_000_000),
        ("95 MiB", 95 << 20),
        ("0.5GB", 500_000_000),
        ("1gib", 1 << 30),
        ("12kB", 12_000),
        ("3KiB", 3072),
        ("77B", 77),
        (77, 77),
    ],
)
def test_sizes_are_read(text: str | int, number: int) -> None:
    assert bytes_in(text) == number


@pytest.mark.parametrize("text", ["", "M", "0", "-3M", "1.2.3", "90X", "1e6", "0.2"])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--target-parameters cannot be read"):
        surgery.CompressOptions(target_parameters=text)
    with pytest.raises(UsageError, match="--target-size cannot be read"):
        surgery.CompressOptions(target_size=text)


@pytest.mark.parametrize("layout", ["model", "ragged"])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_the_written_file_is_as_large_as_was_asked(
    layout: str, dtype: str | None, tmp_path: Path
) -> None:
    save("llama", tmp_path / "source")
    whole = (tmp_path / "source" / "model.safetensors").stat().st_size
    target = round(0.8 * whole) // (1 if dtype is None else 2)
    report = aimed(tmp_path, "llama", target_size=target, dtype=dtype, layout=layout)
    size = (tmp_path / "out" / "model.safetensors").stat().st_size
    blocks = 1 if layout == "ragged" else len(report.feed_forward)
    width = config_of(tmp_path / "out")["hidden_size"]
    step = 3 * 4 * blocks * width * (4 if dtype is None else 2)  # gate, up, down; four neurons
    assert abs(size - target) <= step / 2 + 64  # a header's digits


def test_as_many_parameters_are_left_as_were_asked(tmp_path: Path) -> None:
    aimed(tmp_path, "gpt2", target_parameters="20k", layout="ragged", seams=SEAMS)
    left = sum(each.numel() for each in tensors_of(tmp_path / "out").values())
    assert abs(left - 20_000) <= 200


@pytest.mark.parametrize("layout", ["model", "ragged"])
@pytest.mark.parametrize(("scope", "output"), [("encoder", "encoder output"), ("decoder", "next")])
def test_one_tower_alone_shares_the_budget(
    scope: str, output: str, layout: str, tmp_path: Path
) -> None:
    report = aimed(tmp_path, "whisper", remove=0.05, scope=scope, samples=2, layout=layout)
    assert {one.scope for one in report.feed_forward if one.kept < one.before} == {scope}
    assert report.calibration.output.startswith(output)


@pytest.mark.parametrize(
    ("scope", "towers"),
    [("encoder", {"encoder"}), ("decoder", {"decoder", "cross"}), ("all", {*SCOPES} - {"all"})],
)
def test_attention_of_that_tower_shares_it(scope: str, towers: set[str], tmp_path: Path) -> None:
    more = {"scope": scope, "seams": SEAMS, "layout": "ragged", "samples": 1}
    with resolve(str(save("whisper", tmp_path / "source"))) as source:
        plan = make_plan(source, options(tmp_path, "whisper", **more))
        with (part := AttentionPart(plan, ignore)).run:
            assert {site.scope for site in part.sites} == towers
    assert {site.scope for site in plan.sites} == towers - {"cross"}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"target_parameters": "1B"}, "no larger than that"),
        ({"target_size": "1GB"}, "no larger than that"),
        ({"target_size": "60kB", "dtype": "float16"}, "no larger than that"),
        ({"target_parameters": 5}, "at least"),
        ({"target_parameters": 5, "layout": "ragged"}, "at least"),
        ({"target_size": "5kB", "layout": "ragged"}, "at least"),
        ({"target_size": "20kB", "remove": 0.1}, "one of them"),
        ({"target_size": "20kB", "of": "ffn"}, "--of says"),
        ({"remove": 0.1, "scope": "encoder"}, "has no encoder"),
        ({"remove": 0.1, "scope": "cross"}, "--scope"),
    ],
)
def test_what_cannot_be_had_is_refused(given: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=told):
        aimed(tmp_path, "llama", **given)
    assert not (tmp_path / "out").exists()


def test_what_a_refusal_says_is_the_least_can_be_had(tmp_path: Path) -> None:
    for layout in ("model", "ragged"):
        with pytest.raises(UsageError) as refused:
            aimed(tmp_path, "llama", target_parameters=5, layout=layout)
        least = int((refused.value.expected or "").split()[2].replace(",", ""))
        (tmp_path / layout).mkdir()
        aimed(tmp_path / layout, "llama", target_parameters=least, layout=layout)
        left = tensors_of(tmp_path / layout / "out").values()
        assert sum(each.numel() for each in left) == least
