#!/usr/bin/env bash
# CTranslate2 converts checkpoints whose config it does not fully apply, and says nothing.
#
# Expected: the converter reproduces the model, or refuses a setting that it cannot express (as it does
#   for the rope type "yarn").
# Happens: three settings are accepted and have no effect. The converted model computes what
#   the same weights compute with that setting at its default:
#   - LLaMA, rope type "llama3" (the long-context scaling of LLaMA 3.1 and later): plain rope;
#   - LLaMA, `hidden_act="relu"` (models made sparse for speed): SiLU;
#   - Falcon, `rope_theta` other than 10000: 10000.
# Seen with: ctranslate2 4.8.5 and 4.7.0 with transformers 5.24.0, on the CPU in float32.
# Why it hurts: exporting comes last, after quality was measured, and the error of the rope grows with
#   the position, so that a short trial may pass. What is lost looks like the price of pruning.
# What to do: after every conversion compare the logits of one long input with those of the checkpoint.
#   Where they differ, use another runtime; nothing in the converter's options helps.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q 'torch>=2.6,<2.14' transformers==5.24.0 ctranslate2==4.8.5

cat >"$here/show.py" <<'PY'
import copy
import tempfile

import ctranslate2
import numpy as np
import tokenizers
import torch
import transformers
from transformers import FalconConfig, FalconForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

FALCON = dict(
    vocab_size=64, hidden_size=256, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.3,
    bos_token_id=1, eos_token_id=2, pad_token_id=3,
)
LLAMA = FALCON | dict(intermediate_size=64, max_position_embeddings=131072)
PLAIN = dict(rope_type="default", rope_theta=500000.0)
LLAMA3 = dict(
    rope_type="llama3", rope_theta=500000.0, factor=8.0,
    low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192,
)
words = tokenizers.models.WordLevel({f"t{i}": i for i in range(64)}, unk_token="t0")
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=tokenizers.Tokenizer(words), unk_token="t0", bos_token="t1", eos_token="t2", pad_token="t3"
)
ids = torch.randint(4, 64, (1, 200), generator=torch.Generator().manual_seed(0))


def original(family, config):
    torch.manual_seed(0)  # the same weights whatever the setting
    model = family(copy.deepcopy(config)).eval()
    with torch.no_grad():
        return model, model(ids).logits[0].numpy()


def converted(model):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(f"{folder}/model")
        tokenizer.save_pretrained(f"{folder}/model")
        ctranslate2.converters.TransformersConverter(f"{folder}/model").convert(f"{folder}/ct2")
        runtime = ctranslate2.Generator(f"{folder}/ct2", compute_type="float32")
        return np.array(runtime.forward_batch([[f"t{i}" for i in ids[0].tolist()]]))[0]


PAIRS = {  # what is converted, and the same with the setting at its default
    "no special setting": (LlamaForCausalLM, LlamaConfig(**LLAMA), LlamaConfig(**LLAMA)),
    "LLaMA, llama3 rope": (
        LlamaForCausalLM, LlamaConfig(**LLAMA, rope_parameters=LLAMA3), LlamaConfig(**LLAMA, rope_parameters=PLAIN)
    ),
    "LLaMA, relu": (LlamaForCausalLM, LlamaConfig(**LLAMA, hidden_act="relu"), LlamaConfig(**LLAMA)),
    "Falcon, rope_theta": (FalconForCausalLM, FalconConfig(**FALCON, rope_parameters=PLAIN), FalconConfig(**FALCON)),
}
print(f"ctranslate2 {ctranslate2.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")
for title, (family, config, default) in PAIRS.items():
    model, logits = original(family, config)
    got = converted(model)
    apart = abs(got - logits).max()
    same = (got.argmax(-1) == logits.argmax(-1)).mean()
    from_default = abs(got - original(family, default)[1]).max()
    print(
        f"{title}: logits {apart:.1e} from the checkpoint's (of {abs(logits).max():.0f}), same best token {same:.1%};"
        f" {from_default:.1e} from the default setting's"
    )
    assert from_default < 0.05, "the setting has an effect now"
    assert (apart < 0.05) if title.startswith("no") else (apart > 1 and same < 0.97)
PY
"$here/venv/bin/python" "$here/show.py" 2>"$here/log" || { cat "$here/log" >&2; exit 1; }

# Seen:
#   ctranslate2 4.8.5, transformers 5.24.0, torch 2.13.0+cpu
#   no special setting: logits 5.1e-04 from the checkpoint's (of 20), same best token 100.0%; 5.1e-04 from the default setting's
#   LLaMA, llama3 rope: logits 1.1e+01 from the checkpoint's (of 19), same best token 80.5%; 7.1e-04 from the default setting's
#   LLaMA, relu: logits 5.8e+00 from the checkpoint's (of 19), same best token 86.0%; 5.1e-04 from the default setting's
#   Falcon, rope_theta: logits 1.5e+01 from the checkpoint's (of 19), same best token 34.0%; 1.4e-04 from the default setting's
