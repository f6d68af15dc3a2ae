#!/usr/bin/env bash
# Settings of a Whisper's generation_config.json are written, and are gone when the model is loaded.
#
# Expected: what `save_pretrained` writes to generation_config.json, `from_pretrained` reads back.
# Happens: a model that was built from its config (trained from scratch, a student, a test) has a
#   generation config with the private mark `_from_model_config: true`. Values set on it afterwards are
#   used at once and are written to the file, the mark beside them. On loading, the mark makes the
#   library build the generation config anew from config.json, which knows none of Whisper's: alignment
#   heads, the token for "no timestamps", languages and tasks are None. `GenerationConfig.from_pretrained`
#   on the file alone drops them as well. Saved again, they are gone from the file too. No warning.
# Seen with: transformers 5.24.0.
# Why it hurts: word timestamps, language tokens and suppression differ between the model in memory and
#   the one that others load; a reader of the JSON (an exporter, a converter) sees values that
#   transformers does not use, so two runtimes are told different prompts.
# What to do: set `model.generation_config._from_model_config = False` before saving (what this script
#   checks as the remedy), or delete the key from the file.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q 'torch>=2.6,<2.14' transformers==5.24.0

cat >"$here/show.py" <<'PY'
import json
import sys
from pathlib import Path

import transformers
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
NAMES = ("alignment_heads", "no_timestamps_token_id", "task_to_id")


def values(config):
    return [config.get(name) if isinstance(config, dict) else getattr(config, name, None) for name in NAMES]


def saved(mark, folder):
    sizes = dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 40)
    heads = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4)
    layers = dict.fromkeys(("encoder_layers", "decoder_layers"), 1)
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=64, num_mel_bins=16, d_model=32, max_source_positions=50, max_target_positions=40,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3, **sizes, **heads, **layers,
        )
    )
    made = model.generation_config
    made.alignment_heads, made.no_timestamps_token_id, made.task_to_id = [[0, 1]], 50, {"transcribe": 40}
    if not mark:
        made._from_model_config = False
    model.save_pretrained(folder)
    return [
        values(made),
        values(json.loads(Path(folder, "generation_config.json").read_text())),
        values(WhisperForConditionalGeneration.from_pretrained(folder).generation_config),
        values(GenerationConfig.from_pretrained(folder)),
    ]


found = {mark: saved(mark, f"{sys.argv[1]}/{mark}") for mark in (True, False)}
for mark, rows in found.items():
    print("as built from the config:" if mark else "with the mark taken away:")
    for name, row in zip(("in memory", "in the file", "model loaded", "config loaded"), rows, strict=True):
        print(f"  {name:14}{row}")
known, gone = [[[0, 1]], 50, {"transcribe": 40}], [None] * 3
sys.exit(found[True] != [known, known, gone, gone] or found[False] != [known] * 4)
PY
"$here/venv/bin/python" "$here/show.py" "$here" ||
  { echo "This has changed: see above." >&2; exit 1; }
# Seen:
#   transformers 5.24.0, torch 2.13.0+cpu
#   as built from the config: in memory and in the file [[[0, 1]], 50, {'transcribe': 40}],
#     model loaded and config loaded [None, None, None]
#   with the mark taken away: all four [[[0, 1]], 50, {'transcribe': 40}]
