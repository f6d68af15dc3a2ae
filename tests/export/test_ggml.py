"""whisper.cpp reads what is written for it, and hears the same."""

from __future__ import annotations

import struct
from pathlib import Path
from shutil import copytree

import pytest
import torch
from torch import Tensor

import surgery
from surgery.errors import UnsupportedModelError, UsageError
from surgery.evaluation.audio import SpeechFolder
from surgery.evaluation.transcribe import transcribe
from surgery.methods import Remove, Thresholds
from tests.engine.support import save_tiny

pytest.importorskip("pywhispercpp")
pytestmark = [
    pytest.mark.usefixtures("no_pictures"),
    # openai-whisper leaves its vocabulary file to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def random(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Whisper of one layer with OpenAI's English vocabulary and window."""
    from whisper.model import ModelDimensions, Whisper

    torch.manual_seed(0)
    dims = ModelDimensions(80, 1500, 64, 2, 1, 51864, 64, 64, 2, 1)
    state = Whisper(dims).state_dict()
    for tensor in state.values():  # openai-whisper leaves some to whatever was in memory, NaN too
        tensor.normal_()
    path = tmp_path_factory.mktemp("random") / "random.pt"
    torch.save({"dims": vars(dims), "model_state_dict": state}, path)
    return path


def naive(path: Path) -> tuple[tuple[int, ...], list[bytes], dict[str, Tensor]]:
    """Read a file as whisper.cpp does, one number after the other."""
    data = path.read_bytes()
    place = 0

    def integers(count: int) -> tuple[int, ...]:
        nonlocal place
        place += 4 * count
        return struct.unpack_from(f"<{count}i", data, place - 4 * count)

    def taken(count: int) -> bytes:
        nonlocal place
        place += count
        return data[place - count : place]

    assert integers(1) == (0x67676D6C,)
    hyper = integers(11)
    bins, frequencies = integers(2)
    taken(4 * bins * frequencies)
    tokens = [taken(*integers(1)) for _ in range(*integers(1))]
    tensors = {}
    while place < len(data):
        count, length, kind = integers(3)
        shape = integers(count)[::-1]
        name = taken(length).decode()
        dtype = (torch.float32, torch.float16)[kind]
        nbytes = torch.Size(shape).numel() * dtype.itemsize
        tensors[name] = torch.frombuffer(bytearray(taken(nbytes)), dtype=dtype).reshape(shape)
    return hyper, tokens, tensors


def test_every_tensor_is_where_whisper_cpp_looks_for_it(random: Path, tmp_path: Path) -> None:
    made = surgery.export_model(random, "ggml", tmp_path / "out")
    assert made.kept is None and made.comparison is not None
    assert "recording" in made.comparison.what or "tie" in made.comparison.what

    hyper, tokens, tensors = naive(tmp_path / "out" / "ggml-model-f16.bin")
    assert hyper == (51864, 1500, 64, 2, 1, 64, 64, 2, 1, 80, 1)
    assert (len(tokens), tokens[11], tokens[-1]) == (50256, b",", b" gazed")
    state = torch.load(random, weights_only=True)["model_state_dict"]
    assert tensors.keys() == state.keys()
    for name, tensor in tensors.items():
        halves = state[name].dim() > 1 and "positional" not in name
        assert tensor.dtype == (torch.float16 if halves else torch.float32), name
        expected = state[name].to(tensor.dtype).reshape(tensor.shape)
        assert torch.equal(tensor, expected), name


@pytest.mark.slow  # cut, written, and heard twice at a real vocabulary
def test_blocks_of_constants_are_heard_alike(random: Path, tmp_path: Path) -> None:
    options = surgery.Options(rule=Thresholds(vo=1e9), scope="all", pairs=("vo",))
    surgery.absorb_decompose(random, tmp_path / "cut", options=options)
    made = surgery.export_model(tmp_path / "cut", "ggml", tmp_path / "out")
    assert made.kept == 0.0 and made.comparison is not None  # the texts differed: refused
    _, _, tensors = naive(tmp_path / "out" / "ggml-model-f16.bin")
    outputs = [one for name, one in tensors.items() if name.endswith("attn.out.weight")]
    assert len(outputs) == 3 and not any(map(torch.count_nonzero, outputs))


def test_what_whisper_cpp_has_no_place_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="window has 150 positions") as caught:
        surgery.export_model("whisper-micro", "ggml", tmp_path / "out")
    assert caught.value.hint == "nothing was done to it: it loads in transformers as it is"
    with pytest.raises(UnsupportedModelError, match="LLaMA is no Whisper") as caught:
        surgery.export_model(save_tiny("llama", tmp_path / "llama"), "ggml")
    assert caught.value.hint == "--to gguf"
    with pytest.raises(UsageError, match="no such quantization"):
        surgery.export_model("whisper-micro", "ggml", quantization="f32")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_real_whisper_without_its_small_files_is_heard_all_the_same(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = copytree(shared / "checkpoints" / "whisper-tiny.en-digits", tmp_path / "real whisper")
    (source / "preprocessor_config.json").unlink()
    made = surgery.export_model(source, "ggml", tmp_path / "a place")
    assert made.comparison is not None
    assert made.comparison.what == "the same text of 2 embedded recordings"
    assert f"-m '{tmp_path}/a place/ggml-model-f16.bin'" in made.usage
    (source / "generation_config.json").unlink()
    monkeypatch.setattr("surgery.export.ggml.target.heard", lambda *_: [])  # as just now
    made = surgery.export_model(source, "ggml", tmp_path / "b")
    assert made.comparison is not None and "that it runs; no text: " in made.comparison.what


def test_the_real_whisper_pruned_says_the_same_in_whisper_cpp(shared: Path, tmp_path: Path) -> None:
    from pywhispercpp.model import Model
    from transformers import WhisperProcessor

    checkpoint = shared / "checkpoints" / "whisper-tiny.en-digits"
    options = surgery.Options(rule=Remove(0.125), by_weights=True)
    surgery.absorb_decompose(checkpoint, tmp_path / "pruned", options=options)
    made = surgery.export_model(tmp_path / "pruned", "ggml", tmp_path / "out", verify=False)
    assert made.kept == 0.0 and "no place for smaller heads" in made.notes[0]

    clip = SpeechFolder.open(shared / "audio" / "digits" / "test_seen", limit=1).audio()[0]
    processor = WhisperProcessor.from_pretrained(checkpoint)
    expected = transcribe(surgery.load(tmp_path / "pruned"), processor, [clip])
    model = Model(
        str(tmp_path / "out" / "ggml-model-f16.bin"),
        redirect_whispercpp_logs_to=None,
        language="en",
        no_timestamps=True,
        print_progress=False,
        n_threads=1,
        temperature_inc=0.0,
        no_speech_thold=1.0,
    )
    assert [" ".join(segment.text for segment in model.transcribe(clip))] == expected
