"""An openai-whisper file is the same model as its transformers directory, files included."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from surgery.checkpoint import whisper_assets
from surgery.checkpoint.byte_bpe import merges, to_unicode
from surgery.checkpoint.directory import DirectorySource
from surgery.checkpoint.openai_whisper import OpenAIWhisperSource, tensor_names
from surgery.checkpoint.whisper_assets import Dimensions
from surgery.checkpoint.whisper_vocabulary import Vocabulary
from surgery.checkpoint.writer import ShardWriter, TensorSpec
from surgery.errors import CheckpointError

TEXTS = [
    "three one four one five",
    " And so, my fellow Americans: ask not what your country can do for you.",
    "Ärger über 12.5 % — naïve café, \u65e5\u672c\u8a9e, emoji \U0001f642\U0001f680",
    "  double  spaces\tand\nnewlines ",
    "don't we'll I'd they've <|notimestamps|> <|en|> <|0.00|>",
    "",
]


def dims(**changes: int) -> Dimensions:
    values = {
        "n_mels": 80,
        "n_audio_ctx": 1500,
        "n_audio_state": 384,
        "n_audio_head": 6,
        "n_audio_layer": 4,
        "n_vocab": 51865,
        "n_text_ctx": 448,
        "n_text_state": 384,
        "n_text_head": 6,
        "n_text_layer": 4,
    }
    return Dimensions(**{**values, **changes})


@pytest.fixture(scope="module")
def directory(shared: Path) -> DirectorySource:
    return DirectorySource(shared / "checkpoints" / "whisper-tiny.en-digits")


@pytest.fixture(scope="module")
def source(shared: Path) -> OpenAIWhisperSource:
    return OpenAIWhisperSource(shared / "checkpoints" / "whisper-tiny.en-digits.pt")


@pytest.fixture(scope="module")
def converted(source: OpenAIWhisperSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("converted")
    for shard, names in source.shards.items():
        specs = [TensorSpec(n, source.infos[n].dtype, source.infos[n].shape) for n in names]
        with ShardWriter(out / shard, specs, metadata=source.metadata) as writer:
            for name in writer.remaining:
                writer.write(name, source.raw(name))
    source.write_sidecars(out)
    (out / "config.json").write_text(json.dumps(source.config))
    return out


def test_every_tensor_is_bit_equal_to_the_directorys(
    source: OpenAIWhisperSource, directory: DirectorySource
) -> None:
    assert set(source.infos) == set(directory.infos)
    for name, info in directory.infos.items():
        assert source.infos[name].dtype == info.dtype
        assert source.infos[name].shape == info.shape
        assert source.raw(name) == directory.raw(name)


def test_the_config_equals_the_directorys(
    source: OpenAIWhisperSource, directory: DirectorySource
) -> None:
    assert source.config == directory.config


@pytest.mark.parametrize(
    "file", ["vocab.json", "added_tokens.json", "tokenizer.json", "preprocessor_config.json"]
)
def test_the_files_built_equal_the_directorys(
    converted: Path, directory: DirectorySource, file: str
) -> None:
    assert directory.directory is not None
    assert json.loads((converted / file).read_text()) == json.loads(
        (directory.directory / file).read_text()
    )


def test_the_generation_config_equals_the_directorys_but_for_a_retired_key(
    converted: Path, directory: DirectorySource
) -> None:
    assert directory.directory is not None
    theirs = json.loads((directory.directory / "generation_config.json").read_text())
    # transformers now puts <|notimestamps|> itself, from no_timestamps_token_id.
    del theirs["forced_decoder_ids"]
    assert json.loads((converted / "generation_config.json").read_text()) == theirs


def test_token_ids_equal_the_directorys_and_openai_whispers(
    converted: Path, directory: DirectorySource, source: OpenAIWhisperSource
) -> None:
    from transformers import AutoTokenizer

    ours, theirs = (AutoTokenizer.from_pretrained(d) for d in (converted, directory.directory))
    openai = Vocabulary(source.dims.n_vocab).tokenizer
    for text in TEXTS:
        ids = ours(text).input_ids
        assert ids == theirs(text).input_ids
        assert ours.decode(ids) == theirs.decode(ids)
        if "<|" not in text:
            assert ours(text, add_special_tokens=False).input_ids == openai.encode(text)


@pytest.mark.slow
def test_it_transcribes_digits_like_the_directory(
    converted: Path, directory: DirectorySource, shared: Path
) -> None:
    import soundfile
    from scipy.signal import resample_poly
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    folder = shared / "audio" / "digits" / "test_seen"
    lines = (folder / "transcripts.tsv").read_text().splitlines()[:2]
    rows = [line.split("\t") for line in lines if line.split("\t")[0].endswith(".flac")]
    audio = []
    for file, _ in rows:
        samples, rate = soundfile.read(folder / file, dtype="float32")
        audio.append(resample_poly(samples, 16000, rate))
    texts = []
    for path in (converted, directory.directory):
        processor = WhisperProcessor.from_pretrained(path)
        model = WhisperForConditionalGeneration.from_pretrained(path, dtype=torch.float32)
        features = processor(audio, sampling_rate=16000, return_tensors="pt").input_features
        with torch.inference_mode():
            ids = model.generate(features, max_new_tokens=20)
        texts.append(processor.batch_decode(ids, skip_special_tokens=True))
    assert texts[0] == texts[1]
    right = sum(
        text.split() == words.split() for text, (_, words) in zip(texts[0], rows, strict=True)
    )
    assert right == len(rows) == 2


@pytest.mark.parametrize(
    ("vocabulary", "start", "no_timestamps", "languages", "last"),
    [
        (51864, 50257, 50362, 99, "su"),
        (51865, 50258, 50363, 99, "su"),
        (51866, 50258, 50364, 100, "yue"),
    ],
)
def test_special_tokens_of_each_vocabulary(
    tmp_path: Path, vocabulary: int, start: int, no_timestamps: int, languages: int, last: str
) -> None:
    from transformers import AutoTokenizer

    model = dims(n_vocab=vocabulary, n_mels=128 if vocabulary == 51866 else 80)
    config = whisper_assets.model_config(model, "float16")
    assert config["decoder_start_token_id"] == start
    assert config["eos_token_id"] == start - 1
    generation = whisper_assets.generation_config(model, "x")
    assert generation["no_timestamps_token_id"] == no_timestamps
    assert start in generation["suppress_tokens"]
    assert no_timestamps not in generation["suppress_tokens"]
    if vocabulary > 51864:
        assert len(generation["lang_to_id"]) == languages
        assert generation["lang_to_id"]["<|en|>"] == start + 1
        assert generation["task_to_id"]["translate"] == start + languages + 1
        assert f"<|{last}|>" in generation["lang_to_id"]
    whisper_assets.write(model, "x", tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == vocabulary
    assert tokenizer.convert_tokens_to_ids("<|30.00|>") == vocabulary - 1
    openai = Vocabulary(model.n_vocab).tokenizer
    for text in TEXTS[:4]:
        assert tokenizer(text, add_special_tokens=False).input_ids == openai.encode(text)
        assert tokenizer.decode(openai.encode(text)) == text


def test_alignment_heads_of_known_models() -> None:
    tiny_en = whisper_assets.alignment_heads(dims(n_vocab=51864), "tuned")
    assert tiny_en == [[1, 0], [2, 0], [2, 5], [3, 0], [3, 1], [3, 2], [3, 3], [3, 4]]
    large = {"n_text_layer": 32, "n_text_head": 20, "n_audio_state": 1280, "n_text_state": 1280}
    one, two = (whisper_assets.alignment_heads(dims(**large), f"large-v{v}") for v in (1, 2))
    assert one is not None
    assert two is not None
    assert one != two
    assert whisper_assets.alignment_heads(dims(**large), "my-large") is None
    three = whisper_assets.alignment_heads(dims(**large, n_vocab=51866), "any")
    assert three is not None
    turbo = dims(n_text_layer=4, n_text_head=20, n_vocab=51866)
    assert whisper_assets.alignment_heads(turbo, "any") is not None
    assert whisper_assets.alignment_heads(dims(n_text_layer=3), "whisper") is None


def test_merges_rebuild_every_token_they_are_implied_by() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)}
    ranks |= {b"ab": 256, b"abc": 257, b" a": 258, b"zzz": 259, b"": 260}
    assert merges(ranks) == [("a", "b"), ("ab", "c"), ("Ġ", "a")]
    assert to_unicode(b" \n\xff") == "ĠĊÿ"


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return (Path.touch, (self.path,))


def test_a_pt_file_that_is_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    small = dims(n_audio_layer=1, n_text_layer=1)
    state = {name: torch.zeros(1) for name, _ in tensor_names(small)}
    fine = {"dims": dict(vars(small)), "model_state_dict": state}
    missing = {name: tensor for name, tensor in state.items() if name != "decoder.ln.bias"}
    cases: list[tuple[object, str]] = [
        ([1, 2], "no openai-whisper checkpoint"),
        ({"state_dict": {}}, "no openai-whisper checkpoint"),
        ({**fine, "dims": {"n_mels": 80}}, "dims of the .pt file are incomplete"),
        ({**fine, "model_state_dict": missing}, r"not those of its dims[\s\S]*decoder\.ln\.bias"),
        (
            {**fine, "model_state_dict": {**state, "lora.weight": torch.zeros(1)}},
            r"not those of its dims[\s\S]*lora\.weight",
        ),
        ({**fine, "dims": {**fine["dims"], "n_vocab": 1000}}, "none of openai-whisper's"),
    ]
    for content, says in cases:
        torch.save(content, path)
        with pytest.raises(CheckpointError, match=says):
            OpenAIWhisperSource(path)
    torch.save(fine, path)
    assert "model.encoder.conv1.weight" in OpenAIWhisperSource(path).infos
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no zip file at all"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"x\.pt"):
            OpenAIWhisperSource(path)


def test_code_in_a_pt_file_is_never_run(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    torch.save({"dims": Trap(sprung), "model_state_dict": {}}, tmp_path / "trap.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Trap(sprung)))
    for name in ("trap.pt", "old.pt"):
        with pytest.raises(CheckpointError):
            OpenAIWhisperSource(tmp_path / name)
    assert not sprung.exists()


@pytest.mark.parametrize(("vocabulary", "languages"), [(51864, 99), (51865, 99), (51866, 100)])
def test_a_transcript_begins_with_the_tokens_openai_whisper_begins_with(
    vocabulary: int, languages: int
) -> None:
    from whisper.tokenizer import get_tokenizer

    with warnings.catch_warnings():
        # openai-whisper leaves its vocabulary file to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        theirs = get_tokenizer(
            vocabulary > 51864, num_languages=languages, language="en", task="transcribe"
        )
    assert Vocabulary(vocabulary).prompt() == [*theirs.sot_sequence_including_notimestamps]
