#!/usr/bin/env bash
# CTranslate2 takes a multilingual Whisper for an English-only one where its vocabulary lacks the token "".
#
# Expected: whether a Whisper is multilingual is read from what says so: the ids of its language tokens, which the
#   converter itself writes into the model's config.json (`lang_ids`).
# Happens: it is read from whether the vocabulary has a token that is the empty string. OpenAI's multilingual
#   vocabulary has one, a placeholder that no text leads to and that its English one lacks; nothing says that
#   it means anything. A Whisper with 99 languages and without this token converts without a word;
#   `is_multilingual` is then False, and faster-whisper, asked to find the language, answers "en" with probability
#   1 and leaves language and task out of the prompt. How many tokens there are does not matter.
# Seen with: ctranslate2 4.8.5, faster-whisper 1.2.1, transformers 5.24.0.
# Why it hurts: whoever trims a vocabulary to the tokens that some text uses, or trains a tokenizer of one's own,
#   has no such token. Speech in any language is then decoded as that of an English-only model.
# What to do: keep the token "" (one row of the embedding), or put it into vocabulary.json for an unused id.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q 'torch>=2.6,<2.14' transformers==5.24.0 ctranslate2==4.8.5 faster-whisper==1.2.1

cat >"$here/show.py" <<'PY'
import json
import sys
from pathlib import Path

import ctranslate2
import faster_whisper
import numpy as np
import tokenizers
import torch
import transformers
from transformers import GenerationConfig, PreTrainedTokenizerFast, WhisperConfig, WhisperFeatureExtractor
from transformers import WhisperForConditionalGeneration

LANGUAGES = [f"<|{code}|>" for code in faster_whisper.tokenizer._LANGUAGE_CODES if code != "yue"]
BEFORE = ["<|endoftext|>", "<|startoftranscript|>", *LANGUAGES]
AFTER = ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
SPECIAL = BEFORE + AFTER + [f"<|{at * 0.02:.2f}|>" for at in range(1501)]


def saved(folder, size, empty):
    """Write a random multilingual Whisper of so many tokens: text, the empty one if asked, then special ones."""
    words = {f"t{at}": at for at in range(size - len(SPECIAL) - empty)}
    if empty:
        words[""] = len(words)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="t0")),
        unk_token="t0", eos_token="<|endoftext|>",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    ids = tokenizer.get_vocab()
    assert len(ids) == size
    ends = dict(
        bos_token_id=ids["<|endoftext|>"], eos_token_id=ids["<|endoftext|>"], pad_token_id=ids["<|endoftext|>"],
        decoder_start_token_id=ids["<|startoftranscript|>"],
    )
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig(
        vocab_size=size, d_model=64, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1,
        decoder_attention_heads=1, encoder_ffn_dim=64, decoder_ffn_dim=64, init_std=0.3, **ends,
    ))
    model.generation_config = GenerationConfig(
        is_multilingual=True, lang_to_id={name: ids[name] for name in LANGUAGES}, alignment_heads=[[0, 0]],
        task_to_id={"translate": ids["<|translate|>"], "transcribe": ids["<|transcribe|>"]},
        no_timestamps_token_id=ids["<|notimestamps|>"], suppress_tokens=[], begin_suppress_tokens=[], **ends,
    )
    for one in (model, tokenizer, WhisperFeatureExtractor()):
        one.save_pretrained(folder)


print(f"ctranslate2 {ctranslate2.__version__}, faster-whisper {faster_whisper.__version__}, "
      f"transformers {transformers.__version__}")
for size, empty in ((2000, True), (2000, False), (51865, True), (51865, False)):
    folder = Path(sys.argv[1]) / f"{size}-{empty}"
    saved(folder, size, empty)
    ctranslate2.converters.TransformersConverter(
        str(folder), copy_files=["tokenizer.json", "preprocessor_config.json"]
    ).convert(str(folder / "ct2"))
    languages = len(json.loads((folder / "ct2" / "config.json").read_text())["lang_ids"])
    model = faster_whisper.WhisperModel(str(folder / "ct2"), device="cpu", compute_type="float32")
    sound = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    told = model.transcribe(sound, beam_size=1)[1]
    print(
        f"{size:,} tokens, {'with' if empty else 'without'} the empty one, {languages} lang_ids:"
        f" is_multilingual = {model.model.is_multilingual};"
        f" faster-whisper hears {told.language!r} with probability {told.language_probability:.3f}"
    )
    assert languages == len(LANGUAGES) and model.model.is_multilingual == empty
    assert (told.language_probability == 1) == (not empty)
PY
"$here/venv/bin/python" "$here/show.py" "$here" 2>"$here/log" || { cat "$here/log" >&2; exit 1; }

# Seen:
#   ctranslate2 4.8.5, faster-whisper 1.2.1, transformers 5.24.0
#   2,000 tokens, with the empty one, 99 lang_ids: is_multilingual = True; faster-whisper hears 'mk' with probability 0.135
#   2,000 tokens, without the empty one, 99 lang_ids: is_multilingual = False; faster-whisper hears 'en' with probability 1.000
#   51,865 tokens, with the empty one, 99 lang_ids: is_multilingual = True; faster-whisper hears 'tl' with probability 0.272
#   51,865 tokens, without the empty one, 99 lang_ids: is_multilingual = False; faster-whisper hears 'en' with probability 1.000
