"""Collected moments equal a naive recomputation from the weights, in every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import GenerationConfig, WhisperFeatureExtractor

from surgery.architectures import AttentionSite
from surgery.calibration import own_text
from surgery.calibration.collect import collect
from surgery.calibration.data import CalibrationData, open_data
from surgery.calibration.moments import MOMENTS, Moments
from surgery.calibration.speech import SpeechBatch, decoder_tokens, languages_of, speech_batches
from surgery.errors import SurgeryError, UsageError
from surgery.evaluation.audio import Utterance
from surgery.evaluation.rows import Document
from surgery.events import Event
from tests.calibration.oracle import Letters, Naive, block_inputs, difference, sites_of
from tests.models import CAPPED, TINY, tiny_model

EXACT = 1e-12  # float64 on both sides: some thousand roundings of 1e-16, and room to spare
# transformers' tables of angles are float32 whatever the model is: at position t an angle errs by
# t roundings of the frequency and of the product each, a moment by twice that; scores of size
# ten or so carry it into contexts.
ROTARY = 2 * 2 * 20 * torch.finfo(torch.float32).eps * 10
TEXTS = ("once upon a time", "a b", "the end of it")


def text(*documents: str) -> CalibrationData:
    return CalibrationData("stories", "text", documents=tuple(map(Document, documents)))


def assert_equal(found: dict[str, Moments], expected: dict[str, Naive], bound: float) -> None:
    assert set(found) == set(expected)
    for path, naive in expected.items():
        for name, mean in naive.means().items():
            assert difference(getattr(found[path], name), mean) < bound, (path, name)
        assert found[path].queries == pytest.approx(naive.queries, rel=1e-12)
        assert found[path].sequences == naive.sequences


@pytest.mark.parametrize("name", [name for name in TINY if name != "whisper"])
def test_a_language_models_moments_are_those_of_its_weights(name: str) -> None:
    model = tiny_model(name, dtype=torch.float64)
    sites = sites_of(model)
    expected = {site.path: Naive(site) for site in sites}
    for document in TEXTS:
        tokens = torch.tensor([Letters()(document)["input_ids"]])
        with block_inputs(model, sites) as seen, torch.no_grad():
            model(tokens)
        ones = [1.0] * tokens.shape[1]
        for site in sites:
            ((x, y),) = seen[site.path]
            expected[site.path].add(model, x[0], y[0], ones, ones)
    # Three texts of unequal length at once: two are padded, which must change nothing.
    single, batched = (
        collect(model, sites, text(*TEXTS), Letters(), batch=batch)
        for batch in (1, 1 if name in CAPPED else 3)
    )
    assert_equal(single, expected, ROTARY if "rope" in sites[0].between else EXACT)
    for path, moments in single.items():
        for moment in MOMENTS:
            other = getattr(batched[path], moment)
            assert difference(other, getattr(moments, moment)) < EXACT, (path, moment)


def test_a_long_document_counts_every_position_once_as_a_query() -> None:
    model = tiny_model("llama", dtype=torch.float64)
    sites = sites_of(model)
    tokens = Letters()("abcdefghijklmnopq")["input_ids"]  # 18 tokens in windows of 8
    expected = {site.path: Naive(site) for site in sites}
    for begin, end, first in ((0, 8, 0), (4, 12, 4), (8, 16, 4), (12, 18, 4)):
        with block_inputs(model, sites) as seen, torch.no_grad():
            model(torch.tensor([tokens[begin:end]]))
        size = end - begin
        for site in sites:
            ((x, y),) = seen[site.path]
            once = [float(at >= first) for at in range(size)]
            expected[site.path].add(model, x[0], y[0], once, [1.0] * size)
    found = collect(model, sites, text("abcdefghijklmnopq"), Letters(), context=8)
    assert_equal(found, expected, ROTARY)
    assert found[sites[0].path].queries == 18


class Processor:
    """Ears of 40 mel frames a second, and letters for words."""

    def __init__(self) -> None:
        self.feature_extractor = WhisperFeatureExtractor(
            feature_size=8, sampling_rate=16_000, hop_length=400, chunk_length=1, n_fft=400
        )
        self.tokenizer = Letters()


def speaker(*, dtype: torch.dtype = torch.float64) -> Any:
    model: Any = tiny_model("whisper", dtype=dtype)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=1, eos_token_id=2, pad_token_id=0, no_timestamps_token_id=47,
        is_multilingual=False, max_length=12, return_timestamps=False,
    )  # fmt: skip
    return model


@pytest.fixture
def recordings(tmp_path: Path) -> tuple[Utterance, ...]:
    """Clips that fill some of a window, all of one, and more than one."""
    random = np.random.default_rng(0)
    clips = {"a": (5_000, "one two"), "b": (16_000, "six"), "c": (801, ""), "d": (24_000, None)}
    for name, (size, _) in clips.items():
        soundfile.write(tmp_path / f"{name}.flac", 0.3 * random.standard_normal(size), 16_000)
    return tuple(Utterance(tmp_path / f"{name}.flac", words) for name, (_, words) in clips.items())


def windows(recordings: tuple[Utterance, ...]) -> list[tuple[np.ndarray, str | None]]:
    from surgery.evaluation.audio import split

    pieces = [(split(each.audio(), 16_000), each.words) for each in recordings]
    return [(part, words if len(all_) == 1 else None) for all_, words in pieces for part in all_]


def spoken(model: Any, features: torch.Tensor, words: str | None, seconds: float) -> list[int]:
    """What the decoder is fed: known words, or its own, at most 12 tokens a second."""
    start = [1, 47]
    if words is not None:
        own = Letters()(f" {words}" if words else "", add_special_tokens=False)["input_ids"]
        return [*start, *own]
    limit = int(np.ceil(12 * seconds))
    tokens = model.generate(features, return_timestamps=False, max_new_tokens=limit)[0].tolist()
    return [*start, *(token for token in tokens if token > 2)]


@pytest.mark.parametrize("padding_weight", [0.0, 0.25])
@pytest.mark.parametrize("batch", [1, 3])
def test_whispers_moments_are_those_of_its_weights(
    recordings: tuple[Utterance, ...], padding_weight: float, batch: int
) -> None:
    model, processor = speaker(), Processor()
    sites = sites_of(model)
    expected = {site.path: Naive(site) for site in sites}
    for audio, words in windows(recordings):
        features = processor.feature_extractor(
            audio, sampling_rate=16_000, return_tensors="pt"
        ).input_features.double()
        tokens = spoken(model, features, words, audio.size / 16_000)
        with block_inputs(model, sites) as seen, torch.no_grad():
            model(features, decoder_input_ids=torch.tensor([tokens]), use_cache=False)
        filled = int(np.ceil(audio.size / 800))  # 16,000 samples are 20 positions
        frames = [1.0] * filled + [padding_weight] * (20 - filled)
        ones = [1.0] * len(tokens)
        for site in sites:
            ((x, y),) = seen[site.path]
            queries = frames if site.scope == "encoder" else ones
            keys = ones if site.scope == "decoder" else frames
            expected[site.path].add(model, x[0], y[0], queries, keys)
    data = CalibrationData("clips", "audio", recordings=recordings)
    found = collect(model, sites, data, processor, padding_weight=padding_weight, batch=batch)
    assert_equal(found, expected, EXACT)


@pytest.mark.parametrize("name", ["whisper", "qwen2", "gpt2"])
def test_float32_activations_lose_no_more_than_their_own_rounding(
    name: str, recordings: tuple[Utterance, ...]
) -> None:
    # The sums are float64 in both runs, so what differs is the model's own float32: some twenty
    # chained operations on vectors of 48, each within 48 roundings, squared at the end.
    exact: Any = speaker() if name == "whisper" else tiny_model(name, dtype=torch.float64)
    single: Any = speaker(dtype=torch.float32) if name == "whisper" else tiny_model(name)
    known = tuple(each for each in recordings if each.words is not None)
    data = CalibrationData("x", "audio", known) if name == "whisper" else text(*TEXTS)
    processor: Any = Processor() if name == "whisper" else Letters()
    sites = sites_of(exact)
    expected, found = (collect(model, sites, data, processor) for model in (exact, single))
    for path, moments in expected.items():
        for moment in MOMENTS:
            assert getattr(found[path], moment).dtype == torch.float64
            error = difference(getattr(found[path], moment), getattr(moments, moment))
            assert error < 2 * 20 * 48 * torch.finfo(torch.float32).eps, (path, moment)


def test_only_the_encoder_runs_for_encoder_blocks(recordings: tuple[Utterance, ...]) -> None:
    model = speaker()
    encoder = [site for site in sites_of(model) if site.scope == "encoder"]
    called: list[str] = []
    model.model.decoder.register_forward_pre_hook(lambda *_: called.append("decoder"))
    data = CalibrationData("clips", "audio", recordings=recordings)
    assert set(collect(model, encoder, data, Processor())) == {site.path for site in encoder}
    assert not called


def hooks(model: Any) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


def test_the_model_is_left_as_it_was_even_when_it_fails() -> None:
    model = tiny_model("llama")
    model.train()
    sites = sites_of(model)
    collect(model, sites, text("abc"), Letters())
    assert hooks(model) == 0 and model.training

    class Broken(Letters):
        def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
            return {"input_ids": [1, -1]}  # no token at all

    with pytest.raises(IndexError):
        collect(model, sites, text("abc"), Broken())
    assert hooks(model) == 0 and model.training


def test_progress_counts_windows_to_the_end(recordings: tuple[Utterance, ...]) -> None:
    events: list[Event] = []
    encoder = [site for site in sites_of(speaker()) if site.scope == "encoder"]
    data = CalibrationData("clips", "audio", recordings=recordings)
    collect(speaker(), encoder, data, Processor(), batch=2, progress=events.append)
    assert [event.done for event in events] == [0, 2, 4, 5]
    assert {event.total for event in events} == {5}


def encoder_and_data(model: Any) -> tuple[list[AttentionSite], CalibrationData]:
    return list(sites_of(model)), text("abc")


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    model = tiny_model("llama")
    sites, data = encoder_and_data(model)
    with pytest.raises(UsageError, match="between 0 and 1"):
        collect(model, sites, data, Letters(), padding_weight=1.5)
    with pytest.raises(UsageError, match="does not fit the model"):
        collect(model, sites, CalibrationData("x", "audio"), Letters())
    with pytest.raises(UsageError, match=r"layers\.0\.self_attn"):
        collect(tiny_model("gpt2"), sites, data, Letters())
    model.model.layers[1].self_attn.v_proj = torch.nn.Linear(32, 12, bias=False)
    with pytest.raises(UsageError, match=r"layers\.1\.self_attn\.v_proj"):
        collect(model, sites, data, Letters())


def test_a_decoder_is_not_asked_for_a_language_it_does_not_know(
    recordings: tuple[Utterance, ...],
) -> None:
    model = speaker()
    data = CalibrationData("clips", "audio", recordings=recordings)
    with pytest.raises(UsageError, match="English only"):
        collect(model, sites_of(model), data, Processor(), language="fr")


def test_each_recording_is_in_the_language_that_the_model_hears() -> None:
    model = speaker()
    positions, width = model.config.max_source_positions, model.config.d_model
    random = torch.Generator().manual_seed(0)
    heard = 3 * torch.randn(12, positions, width, generator=random, dtype=torch.float64)
    begun = torch.tensor([[1]])
    with torch.no_grad():
        said = [
            model(encoder_outputs=(row[None],), decoder_input_ids=begun).logits[0, 0]
            for row in heard
        ]
    # Of two tokens that are about as likely, now one is likelier and now the other.
    apart = torch.stack(said).std(dim=0).argmax()
    near = torch.stack([row - row[apart] for row in said]).mean(dim=0).abs()
    near[apart] = torch.inf
    pair = [int(apart), int(near.argmin())]
    generation = model.generation_config
    generation.is_multilingual = True
    generation.lang_to_id = dict(zip(("<|en|>", "<|de|>"), pair, strict=True))
    generation.task_to_id = {"transcribe": 42}
    words = tuple("abcdefghijkl")
    batch = SpeechBatch(torch.empty(0), torch.empty(0), words, (1.0,) * len(words))
    tokens, _ = decoder_tokens(model, Processor(), batch, heard, "auto")
    assert tokens[:, 1].tolist() == [pair[int(row[pair].argmax())] for row in said]
    assert set(tokens[:, 1].tolist()) == set(pair)
    told, _ = decoder_tokens(model, Processor(), batch, heard, "de")
    assert set(told[:, 1].tolist()) == {pair[1]}
    english = speaker()
    assert languages_of(english, "auto", heard) == ["en"] * len(words)


def test_damaged_weights_are_named() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[0, 0] = torch.inf
    sites, data = encoder_and_data(model)
    with pytest.raises(SurgeryError, match=r"layers\.1\.self_attn: q"):
        collect(model, sites, data, Letters())


def test_real_speech_from_a_folder(shared: Path) -> None:
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    directory = shared / "checkpoints" / "whisper-tiny.en-digits"
    processor = WhisperProcessor.from_pretrained(directory)
    model: Any = WhisperForConditionalGeneration.from_pretrained(directory, dtype=torch.float32)
    site = sites_of(model)[2]
    data = open_data(shared / "audio" / "speech" / "calib", "audio", 1)
    found = collect(model, [site], data, processor, padding_weight=0.1)[site.path]
    seconds = soundfile.info(data.recordings[0].path).duration
    voiced = int(np.ceil(seconds * 50))
    assert found.queries == pytest.approx(voiced + 0.1 * (1500 - voiced))
    for moment in (found.q, found.k, found.c):
        assert float(torch.linalg.eigvalsh(moment).min()) > -1e-9 * float(moment.norm())


def test_words_are_written_once_until_a_weight_changes(
    recordings: tuple[Utterance, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, written = speaker(), list[int]()
    write = own_text._generate

    def counted(model: Any, heard: torch.Tensor, *more: Any) -> list[list[int]]:
        written.append(len(heard))
        return write(model, heard, *more)

    monkeypatch.setattr(own_text, "_generate", counted)

    def taught(batch: int) -> list[torch.Tensor]:
        batches = speech_batches(model, Processor(), recordings, padding_weight=0.0, batch=batch)
        with torch.no_grad():
            return [
                decoder_tokens(
                    model, Processor(), each, model.get_encoder()(each.features)[0], "en"
                )[0]
                for each in batches
            ]

    before = taught(1)
    assert written == [1, 1]  # of one recording nobody knows the words, and it has two windows
    assert all(map(torch.equal, taught(1), before))
    taught(8)
    assert written == [1, 1]
    with torch.no_grad():
        model.proj_out.weight.mul_(-1)
    taught(8)
    assert written == [1, 1, 2]
