"""Datasets of the hub, through a stand-in for the ``datasets`` package: there is no network."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
from huggingface_hub.errors import HfHubHTTPError

from surgery.errors import SurgeryError, UsageError
from surgery.evaluation.data import open_speech, open_texts
from surgery.evaluation.hub import HubName


class Stream:
    """A streamed dataset: knows its columns, decodes audio only when told not to be raw."""

    def __init__(self, rows: list[dict[str, Any]], raw: bool = False) -> None:
        self.rows, self.raw = rows, raw
        self.column_names: list[str] | None = None if raw else list(rows[0]) if rows else []

    def cast_column(self, column: str, feature: Any) -> Stream:
        assert column in ("audio", "speech")
        assert feature.decode is False
        return Stream(self.rows, raw=True)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not self.raw and any("audio" in row for row in self.rows):
            raise AssertionError("decoding needs a package of its own")
        yield from self.rows


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the stand-in holds (``rows``), and what it was asked for (``asked``)."""
    state: dict[str, Any] = {"rows": [], "error": None}
    module: Any = ModuleType("datasets")

    class Audio:
        def __init__(self, decode: bool) -> None:
            self.decode = decode

    def load_dataset(name: str, config: str | None, **options: Any) -> Stream:
        state["asked"] = (name, config, options)
        if state["error"] is not None:
            raise state["error"]
        return Stream(state["rows"])

    module.Audio, module.load_dataset = Audio, load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    return state


def wav(seed: int) -> bytes:
    file = io.BytesIO()
    samples = np.random.default_rng(seed).standard_normal(8000) * 0.1
    soundfile.write(file, samples, 16_000, format="WAV", subtype="PCM_16")
    return file.getvalue()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hub:google/fleurs", HubName("google/fleurs", None, None, "test")),
        ("hub:a/b.c@v1.0#train", HubName("a/b.c", "v1.0", None, "train")),
        ("hub:a/b@refs/pr/3#en_us/dev", HubName("a/b", "refs/pr/3", "en_us", "dev")),
    ],
)
def test_names_have_a_revision_a_configuration_and_a_split(text: str, expected: HubName) -> None:
    assert HubName.parse(text) == expected


@pytest.mark.parametrize("text", ["hub:", "hub:alone", "hub:a/b/c", "hub:a/b#", "hub:a/b#x/y/z"])
def test_misspelled_names_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="OWNER/NAME"):
        open_speech(text)


def test_recordings_come_with_their_words(hub: dict[str, Any], tmp_path: Path) -> None:
    hub["rows"] = [
        {"audio": {"bytes": wav(n), "path": f"clips/{n}.wav"}, "sentence": f"word {n}"}
        for n in range(3)
    ]
    (tmp_path / "3.wav").write_bytes(wav(3))
    hub["rows"].append(
        {"audio": {"bytes": None, "path": str(tmp_path / "3.wav")}, "sentence": "word 3"}
    )
    found = open_speech("hub:a/b@v1#en/dev")
    assert hub["asked"] == ("a/b", "en", {"split": "dev", "revision": "v1", "streaming": True})
    assert found.name == "a/b#en/dev"
    assert found.names == ("0.wav", "1.wav", "2.wav", "3.wav")
    assert found.references() == ["word 0", "word 1", "word 2", "word 3"]
    assert found.recordings[0].audio().shape == (8000,)
    assert len(found.fingerprints()) == len(set(found.fingerprints().values())) == 4
    assert len(open_speech("hub:a/b", limit=2)) == 2


def test_words_may_be_unknown_but_not_for_some(hub: dict[str, Any]) -> None:
    rows = [{"audio": {"bytes": wav(n), "path": None}} for n in range(2)]
    hub["rows"] = rows
    found = open_speech("hub:a/b")
    assert found.names == ("row 0", "row 1")
    assert found.references() is None
    hub["rows"] = [rows[0] | {"text": "one"}, rows[1] | {"text": None}]
    with pytest.raises(SurgeryError, match="row 1"):
        open_speech("hub:a/b").references()


def test_documents_are_rows_unless_rows_are_short(hub: dict[str, Any]) -> None:
    hub["rows"] = [{"id": n, "text": f"a story, {n}: " + "and then " * 30} for n in range(3)]
    assert len(open_texts("hub:a/b")) == 3
    assert open_texts("hub:a/b").units == ("row",)
    assert len(open_texts("hub:a/b", division="running")) == 1
    assert len(open_texts("hub:a/b", limit=2)) == 2
    hub["rows"] = [{"text": line} for line in ("", " = Title = ", "a line", "")]
    assert open_texts("hub:a/b").documents == ("\n = Title = \na line\n",)
    assert open_texts("hub:a/b").units == ("file",)
    assert open_texts("hub:a/b", division="lines").documents == (" = Title = ", "a line")
    hub["rows"] = [{"text": line} for line in (" = Title = ", "a line " * 60) * 3]
    assert len(open_texts("hub:a/b")) == 1  # wikitext: long lines, and their headings
    assert len(open_texts("hub:a/b", division="lines")) == 6


@pytest.mark.parametrize(
    ("rows", "error", "expected"),
    [
        ([{"image": 1}], None, "image"),
        ([], None, "no rows"),
        ([{"text": "  "}], None, "no text"),
        ([], FileNotFoundError("no such dataset"), "no such dataset"),
        ([], ValueError("Config name is missing"), "Config name is missing"),
    ],
)
def test_what_cannot_be_used_is_named(
    hub: dict[str, Any], rows: list[Any], error: Exception | None, expected: str
) -> None:
    hub["rows"], hub["error"] = rows, error
    openers = [open_speech] if not rows else [open_speech, open_texts]
    if rows and "text" in rows[0]:
        openers = [open_texts]
    for opener in openers:
        with pytest.raises(SurgeryError, match=expected) as caught:
            opener("hub:owner/name")
        assert "hub:owner/name" in str(caught.value)


def test_a_mistake_in_a_program_is_not_called_bad_data(hub: dict[str, Any]) -> None:
    hub["error"] = AttributeError("a bug")
    with pytest.raises(AttributeError):
        open_texts("hub:a/b")


def test_without_the_package_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SurgeryError, match=r"pip install 'model-surgery\[hub-data\]'"):
        open_texts("hub:a/b")


def test_an_error_of_the_network_is_told_whatever_the_http_library_is_called(
    hub: dict[str, Any],
) -> None:
    kinds = HfHubHTTPError.__mro__  # of httpx in one release of the client, of httpx2 in another
    hub["error"] = next(kind for kind in kinds if "httpx" in kind.__module__)("no answer in time")
    assert not isinstance(hub["error"], (OSError, ValueError, RuntimeError))
    with pytest.raises(SurgeryError, match="no answer in time"):
        open_texts("hub:a/b")
