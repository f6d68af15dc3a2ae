"""What does a smaller vocabulary cost, and save?

    python -m benchmarks.vocabulary whisper MODEL --speech en:DIR de:DIR … --ways "--languages en,de --words 5000" …
    python -m benchmarks.vocabulary text MODEL --test TEXT … --ways "--keep-text calib.txt" … [--bytes N]
    python -m benchmarks.vocabulary copy WHISPER [--keep DIR]

Each way is a line of options of ``surgery trim-vocabulary``. Of a Whisper, the word error rate of every folder
(``language:folder``), original and results; the encoder, which is the same bit for bit, hears each recording once. Beside
it the tokens that the original wrote and that are gone, and seconds a decoded token. Of a language model, bits per byte
of the first N bytes of every text, by each model's own tokens; of a model without an output layer, the mean similarity of
documents. ``copy`` times trimming the shapes of whisper-large-v3 against copying the result's bytes.
"""  # noqa: E501

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from typer.testing import CliRunner

import surgery
from surgery.evaluation.audio import SpeechFolder, split, window
from surgery.evaluation.text import compare_text
from surgery.evaluation.transcribe import extract_features, generation_options, most_tokens
from surgery.evaluation.wer import word_errors


def main() -> None:
    """Parse, trim, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=["whisper", "text", "copy"])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--ways", nargs="+", default=[])
    parser.add_argument("--speech", nargs="+", default=[])
    parser.add_argument("--test", nargs="+", default=[])
    parser.add_argument("--bytes", type=int, default=36_000)
    parser.add_argument("--keep", type=Path, help="directory for the results")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        place = asked.keep or Path(temporary)
        if asked.kind == "copy":
            copy(place, Path(asked.model))
            return
        made = {
            way: _trimmed(asked.model, way, place / f"way{at}") for at, way in enumerate(asked.ways)
        }
        if asked.kind == "whisper":
            whisper(asked.model, made, asked.speech)
        else:
            text(asked.model, made, asked.test, asked.bytes)


def _trimmed(model: str, way: str, out: Path) -> Path:
    from surgery_cli.main import app

    if not out.exists():
        words = ["trim-vocabulary", model, *shlex.split(way), "-o", str(out)]
        result = CliRunner().invoke(app, words)
        if result.exit_code:
            raise SystemExit(result.output)
    return out


def _share(made: Path) -> tuple[int, float]:
    report = json.loads((made / "report.json").read_text(encoding="utf-8"))
    saving = report["savings"][-1]
    return report["vocabulary"]["kept"], 1 - saving["stored"] / saving["before"]


def whisper(model: str, made: dict[str, Path], speech: Sequence[str]) -> None:
    """Print word error rates of the original and of every result."""
    from transformers import WhisperProcessor

    places = {"the original": Path(model), **made}
    models: dict[str, Any] = {way: surgery.load(place) for way, place in places.items()}
    processors = {way: WhisperProcessor.from_pretrained(place) for way, place in places.items()}
    first = models["the original"]
    rates: dict[str, list[str]] = {way: [] for way in places}
    gone: dict[str, int] = dict.fromkeys(places, 0)
    written = 0
    spent: dict[str, list[float]] = {way: [0.0, 0.0] for way in places}
    vocab = {way: set(one.tokenizer.get_vocab()) for way, one in processors.items()}
    for named in speech:
        language, _, folder = named.partition(":")
        clips = SpeechFolder.open(Path(folder))
        texts: dict[str, list[str]] = {way: [] for way in places}
        for clip in clips.utterances:
            piece = split(clip.audio(), window(processors["the original"]))[0]
            features = extract_features(processors["the original"], [piece])
            with torch.inference_mode():
                heard = first.get_encoder()(features)
                for way, one in models.items():
                    options = generation_options(one, language, most_tokens([piece])[0])
                    begun = perf_counter()
                    out = one.generate(encoder_outputs=heard, **options)[0].tolist()
                    spent[way][0] += perf_counter() - begun
                    spent[way][1] += len(out)
                    tokenizer = processors[way].tokenizer
                    texts[way].append(tokenizer.decode(out, skip_special_tokens=True).strip())
                    if way == "the original":
                        names = tokenizer.convert_ids_to_tokens(out)
                        written += len(names)
                        for other in places:
                            gone[other] += sum(name not in vocab[other] for name in names)
        said = clips.references()
        for way, some in texts.items():
            rates[way].append(f"{100 * word_errors(said, some, language=language).rate:.2f}")
        print(named, {way: rates[way][-1] for way in places}, flush=True)
    print(
        "| way | tokens | of the model gone |",
        " | ".join(speech),
        "| gone of the original's | ms a token |",
    )
    for way, place in places.items():
        kept, share = (first.config.vocab_size, 0.0) if place == Path(model) else _share(place)
        took = 1000 * spent[way][0] / max(spent[way][1], 1)
        lost = f"{gone[way]} of {written}"
        print(
            f"| {way} | {kept:,} | {share:.1%} |",
            " | ".join(rates[way]),
            f"| {lost} | {took:.1f} |",
        )


def text(model: str, made: dict[str, Path], tests: Sequence[str], size: int) -> None:
    """Print bits per byte, or similarities, of the original and of every result."""
    from transformers import AutoTokenizer

    from surgery.evaluation.own_words import similarity_of

    places = {"the original": Path(model), **made}
    print("| way | tokens | of the model gone |", " | ".join(Path(one).name for one in tests), "|")
    reference: dict[str, Any] = {}
    for way, directory in places.items():
        loaded, tokenizer = surgery.load(directory), AutoTokenizer.from_pretrained(directory)
        causal = loaded.get_output_embeddings() is not None
        cells = []
        for test in tests:
            begin = Path(test).read_bytes()[:size].decode(errors="ignore")
            texts = [begin] if causal else [one for one in begin.splitlines() if one.strip()]
            run = compare_text([loaded], tokenizer, texts, causal=causal, context=512)[0][0]
            if causal:
                bits = sum(float(one.sum()) for one in run.losses) / 0.6931471805599453
                cells.append(f"{bits / len(begin.encode()):.4f}")
            else:
                cells.append(f"{similarity_of(reference.setdefault(test, run), run):.5f}")
        kept, share = (
            (loaded.config.vocab_size, 0.0) if way == "the original" else _share(directory)
        )
        print(f"| {way} | {kept:,} | {share:.1%} |", " | ".join(cells), "|", flush=True)


def copy(place: Path, tokenizer: Path) -> None:
    """Time trimming the shapes of whisper-large-v3 against a copy of the result, both flushed.

    Args:
        place: Where to write 6 GB.
        tokenizer: A multilingual Whisper of 51,865 tokens, whose files beside the weights it takes.
    """
    from safetensors.torch import save_file
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    source, out, again = place / "large", place / "trimmed", place / "copy.safetensors"
    if not source.exists():
        source.mkdir(parents=True)
        heads = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 20)
        deep = dict.fromkeys(("encoder_layers", "decoder_layers"), 32)
        wide = dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 5120)
        raw = {**heads, **deep, **wide, "d_model": 1280, "num_mel_bins": 128}
        config = WhisperConfig(**raw, vocab_size=51865, dtype="float16")
        with torch.device("meta"):
            shapes = WhisperForConditionalGeneration(config).state_dict()
        shapes.pop("proj_out.weight")
        tensors = {
            name: torch.full(one.shape, 0.01, dtype=torch.float16) for name, one in shapes.items()
        }
        save_file(tensors, source / "model.safetensors", {"format": "pt"})
        del tensors
        config.architectures = ["WhisperForConditionalGeneration"]
        config.save_pretrained(source)
        for path in tokenizer.glob("*.json"):
            if path.name != "config.json":
                shutil.copy(path, source)
    (place / "keep.txt").write_text("A few words are enough, since what is timed is the copying.\n")
    options = surgery.TrimOptions(keep_text=(str(place / "keep.txt"),))
    for _ in range(3):
        report = surgery.trim_vocabulary(source, out, options=options, force=True)
        result = out / "model.safetensors"
        begun = perf_counter()
        with result.open("rb") as old, again.open("wb") as new:
            shutil.copyfileobj(old, new, 1 << 24)
            os.fsync(new.fileno())
        copied = perf_counter() - begun
        again.unlink()
        took = report.seconds
        wrote = took["write"] + took["commit"]
        print(
            f"{result.stat().st_size / 1e9:.2f} GB: written in {wrote:.1f} s, copied in "
            f"{copied:.1f} s: {wrote / copied:.2f} times; in all {sum(took.values()):.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
