"""One budget over attention and feed-forward blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import surgery
from surgery.calibration.data import CalibrationData
from surgery.calibration.dealing import deal
from surgery.engine.compress import compress as engine
from surgery.engine.compress.attention import CHARACTERS, thinned
from surgery.errors import UsageError
from surgery.evaluation.rows import Document
from surgery.report.text.calibration import SHARES_OF_MODEL, layouts_of
from tests.engine.support import config_of, contents, run, tensors_of
from tests.engine.test_compress import options, priced, save
from tests.runtime.naive import relative_error

pytestmark = pytest.mark.usefixtures("no_pictures")

SEAMS = ("qk", "vo", "ffn")


def whole(place: Path, name: str, out: str = "out", *, resume: bool = False, **more: Any) -> Any:
    given = {"layout": "ragged", "seams": SEAMS, "multiple": 2, "of": "model", "remove": 0.25}
    chosen = options(place, name, **{**given, **more})
    source = place / "source"
    return surgery.compress(
        source if source.exists() else save(name, source),
        place / out,
        options=chosen,
        resume=resume,
    )


@pytest.mark.parametrize(
    "name",
    [
        "llama",
        "gpt2",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen2", "bert", "whisper")),
    ],
)
def test_what_is_written_computes_what_was_priced(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = priced(monkeypatch)
    report = whole(tmp_path, name)
    operations = config_of(tmp_path / "out")["surgery"]["operations"]
    assert [each["method"] for each in operations] == ["compress", "absorb-decompose"]
    assert relative_error(run(surgery.load(tmp_path / "out")), tried[0]) <= 1e-5
    by_name = {saving.name: saving for saving in report.savings}
    before, after = (
        sum(each.numel() for each in tensors_of(tmp_path / place).values())
        for place in ("source", "out")
    )
    assert by_name["model"].stored == after
    assert 0.24 <= 1 - after / before <= 0.3
    assert by_name["ffn"].removed > 0 and report.savings[0].removed > 0
    assert report.calibration is not None and report.calibration.predicted is not None


@pytest.mark.slow
def test_it_is_resumed_verified_merged_and_not_made_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = whole(tmp_path, "gpt2")
    again = whole(tmp_path, "gpt2")
    assert again.savings == report.savings and "Already done" in again.notes[0]
    expected = contents(tmp_path / "out")

    def broken(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, "price_of", broken)
        with pytest.raises(KeyboardInterrupt):
            whole(tmp_path, "gpt2", out="resumed")
    whole(tmp_path, "gpt2", out="resumed", resume=True)
    found = contents(tmp_path / "resumed")
    assert found["model.safetensors"] == expected["model.safetensors"]
    surgery.merge(tmp_path / "out", tmp_path / "merged")
    operations = config_of(tmp_path / "merged")["surgery"]["operations"]
    assert [each["method"] for each in operations] == ["compress"]
    same = relative_error(
        run(surgery.load(tmp_path / "merged")), run(surgery.load(tmp_path / "out"))
    )
    assert same <= 1e-5


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"layout": "model"}, "No stock class"),
        ({"seams": ("vo",)}, "leaves feed-forward blocks out"),
        ({"seams": ("ffn", "heads")}, "not one of its choices"),
        ({"seams": ("layers", "ffn"), "layers": "1"}, "name none, nor how many"),
        ({"remove": 0.97}, "More is to be removed"),
    ],
)
def test_what_cannot_be_had_is_refused(more: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        whole(tmp_path, "llama", **more)
    assert not (tmp_path / "out").exists()


def test_of_much_text_some_documents_are_fitted_to() -> None:
    documents = tuple(Document("a" * 1000) for _ in range(1000))
    data = CalibrationData("stories", "text", documents=documents)
    dealt = deal(data)
    some = thinned(dealt)
    assert sum(len(each.text) for each in some.fit.documents) <= CHARACTERS
    assert len(some.fit) < len(dealt.fit) and some.trial is dealt.trial
    assert {*map(id, some.fit.documents)} <= {*map(id, dealt.fit.documents)}
    small = deal(CalibrationData("stories", "text", documents=documents[:9]))
    assert thinned(small) is small


@pytest.mark.slow
def test_an_inspection_expects_what_compress_does(tmp_path: Path) -> None:
    asked = options(tmp_path, "llama")
    settings = surgery.Calibrate(asked.calibrate, refit=True)
    given = surgery.Options(calibrate=settings)
    found = surgery.inspect(save("llama", tmp_path / "source"), options=given)
    assert found.calibration is not None and found.calibration.parts is not None
    prices = layouts_of(found.calibration.parts.prices)
    assert [*prices] == ["attention", "ffn", "all"]  # a layer is more than any budget
    for points in prices.values():
        shares = [one.removed for one in points]
        assert shares == sorted(shares) and shares[0] > 0
    share = SHARES_OF_MODEL[3]
    made = whole(tmp_path, "llama", seams=(*SEAMS, "layers"), remove=share, multiple=64)
    assert made.budget is not None
    expected = min(choice.expected for choice in made.budget.choices)
    assert expected in [pytest.approx(one.predicted, rel=1e-5) for one in prices["all"]]


def test_what_cannot_be_compressed_has_no_price_and_the_report_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise UsageError("Its blocks are closed")

    monkeypatch.setattr("surgery.engine.compress.curves.price_parts", refuse)
    settings = surgery.Calibrate(options(tmp_path, "gpt2").calibrate)
    given = surgery.Options(calibrate=settings)
    found = surgery.inspect(save("gpt2", tmp_path / "source"), options=given)
    assert found.calibration is not None and found.calibration.parts is None
    assert "Blocks of neurons and layers have no price here: Its blocks are closed." in found.notes
