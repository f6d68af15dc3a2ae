#!/usr/bin/env bash
# PEFT sorts the keys of `alpha_pattern` when it saves an adapter; the first match wins when it loads.
#
# Expected: an adapter that was saved and loaded again computes what it computed before.
# Happens: of the keys in `alpha_pattern` that match a module the first counts, so the natural way is
#   the exception first and the rule after it. Saving writes `adapter_config.json` with its keys in
#   alphabetical order. Where the rule's name sorts before the exception's ("down_proj" before
#   "layers.1.mlp.down_proj"), the loaded adapter has the rule's scale everywhere. Every tensor fits,
#   so nothing complains. (`rank_pattern` is sorted likewise, but there shapes differ and loading fails.)
# Seen with: peft 0.21.2 and 0.20.0, by PeftModel.from_pretrained and by transformers' own load_adapter;
#   0.18.1 and 0.15.2, by the former.
# Why it hurts: scales per layer are what one sets after pruning, when layers have lost unequal shares.
#   Training and its evaluation use the right scale, only the saved adapter does not, and merging it
#   writes the wrong weights for good.
# What to do: write patterns of which no two match one module, so that their order does not matter (here
#   "layers.0.mlp.down_proj" for the rule), and compare outputs after loading. An adapter saved already
#   is mended by putting its keys back in order in adapter_config.json (last line printed).
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q 'torch>=2.6,<2.14' transformers==5.24.0 peft==0.21.2

cat >"$here/show.py" <<'PY'
import json
import pathlib
import sys
import warnings

import peft
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

PATTERN = {"layers.1.mlp.down_proj": 64, "down_proj": 8}  # layer 1, and all others
file = pathlib.Path(sys.argv[1], "adapter_config.json")
ids = torch.arange(20)[None]


def base():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        bos_token_id=None, eos_token_id=None, initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def scales(model):
    found = (getattr(module, "scaling", None) for module in model.modules())
    return [scaling["default"] for scaling in found if isinstance(scaling, dict)]


@torch.no_grad()
def logits(model):
    return model(ids).logits


print(f"peft {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")
config = peft.LoraConfig(r=4, target_modules=["down_proj"], alpha_pattern=PATTERN, init_lora_weights=False)
trained = peft.get_peft_model(base(), config).eval()
trained.save_pretrained(file.parent)
stored = json.loads(file.read_text())
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    loaded = peft.PeftModel.from_pretrained(base(), file.parent).eval()
own = base()
own.load_adapter(str(file.parent))
about = [w for w in warned if "pattern" in str(w.message) or "alpha" in str(w.message)]
print("keys given ", list(PATTERN), "  scales", scales(trained))
print("keys stored", list(stored["alpha_pattern"]), "  scales", scales(loaded))
apart = [(logits(model) - logits(trained)).abs().max().item() for model in (loaded, own)]
print(f"logits differ by {apart[0]:.2f} (PEFT) and {apart[1]:.2f} (transformers), warnings: {len(about)}")

file.write_text(json.dumps(stored | {"alpha_pattern": PATTERN}))
mended = peft.PeftModel.from_pretrained(base(), file.parent).eval()
again = (logits(mended) - logits(trained)).abs().max().item()
print(f"with the keys put back in order: scales {scales(mended)}, logits differ by {again:.2f}")
assert scales(trained) == [2.0, 16.0] and scales(loaded) == [2.0, 2.0] and not about
assert min(apart) > 1 and again == 0
PY
"$here/venv/bin/python" "$here/show.py" "$here/adapter" 2>"$here/log" || { cat "$here/log" >&2; exit 1; }

# Seen:
#   peft 0.21.2, transformers 5.24.0, torch 2.13.0+cpu
#   keys given  ['layers.1.mlp.down_proj', 'down_proj']   scales [2.0, 16.0]
#   keys stored ['down_proj', 'layers.1.mlp.down_proj']   scales [2.0, 2.0]
#   logits differ by 5.02 (PEFT) and 5.02 (transformers), warnings: 0
#   with the keys put back in order: scales [2.0, 16.0], logits differ by 0.00
