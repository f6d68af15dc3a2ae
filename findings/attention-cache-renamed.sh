#!/usr/bin/env bash
# An attention class written for transformers 5.23 loses the KV cache under 5.24, silently.
#
# Expected: a subclass of LlamaAttention that takes its cache as `past_key_values=` goes on working
#   after a minor upgrade, or fails with an error that names the argument.
# Happens: from 5.24.0 the decoder layer passes the cache as `cache=`. The old signature lets it fall
#   into `**kwargs`, so nothing is stored or read: from the second new token on, every token attends to
#   itself alone. The deprecation helper that maps the old name to the new one sits on the library's
#   own `forward`, which the subclass replaces. No error, no Python warning, no log message.
# Seen with: transformers 5.24.0, the first release with it; in 5.23.0 both ways of generating agree.
# Why it hurts: pruned and tuned checkpoints often carry such a class (ragged heads, low-rank
#   projections, remote code). A forward pass over the whole text, and so the loss and the perplexity,
#   is unchanged; only generation goes wrong, and it still yields tokens.
# What to do: take both names, `cache=None, past_key_values=None`, and use the one that is given (the
#   class BothNames below); in the tests of such code compare generation with and without the cache.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q 'torch>=2.6,<2.14' transformers==5.24.0
"$here/venv/bin/pip" install -q --no-deps --target "$here/old" transformers==5.23.0

cat >"$here/show.py" <<'PY'
import logging
import sys
import warnings

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention, apply_rotary_pos_emb


class Written523(LlamaAttention):
    def forward(self, hidden_states, position_embeddings, attention_mask=None, past_key_values=None, **kwargs):
        split = (*hidden_states.shape[:2], -1, self.head_dim)
        q, k, v = (p(hidden_states).view(split).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        causal = q.shape[2] == k.shape[2]
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.o_proj(out.transpose(1, 2).flatten(2)), None


class BothNames(Written523):
    def forward(self, *args, cache=None, past_key_values=None, **kwargs):
        return super().forward(*args, past_key_values=past_key_values if cache is None else cache, **kwargs)


def continuations(attention):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        bos_token_id=None, eos_token_id=None, initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval()
    for index, layer in enumerate(model.model.layers):
        weights = layer.self_attn.state_dict()
        layer.self_attn = attention(config, index).eval()
        layer.self_attn.load_state_dict(weights)
    prompt = torch.tensor([[5, 9, 11, 2]])
    return [
        model.generate(prompt, max_new_tokens=10, do_sample=False, use_cache=cached)[0, 4:].tolist()
        for cached in (True, False)
    ]


warnings.simplefilter("error")  # any Python warning would end the script here
logged = []
handler = logging.Handler(logging.WARNING)
handler.emit = logged.append
transformers.logging.add_handler(handler)
print(f"transformers {transformers.__version__}, torch {torch.__version__}")
cached, uncached = continuations(Written523)
print("  with cache   ", cached)
print("  without cache", uncached)
both = continuations(BothNames)
print("  equal:", cached == uncached, "| taking both names:", both[0] == both[1], "| warnings:", len(logged))
assert (cached == uncached) == (sys.argv[1] == "equal") and not logged
assert both == [uncached, uncached]
PY
PYTHONPATH="$here/old" "$here/venv/bin/python" "$here/show.py" equal
"$here/venv/bin/python" "$here/show.py" differs

# Seen:
#   transformers 5.23.0, torch 2.13.0+cpu
#     with cache    [44, 29, 29, 38, 61, 29, 53, 38, 44, 53]
#     without cache [44, 29, 29, 38, 61, 29, 53, 38, 44, 53]
#     equal: True | taking both names: True | warnings: 0
#   transformers 5.24.0, torch 2.13.0+cpu
#     with cache    [44, 47, 16, 16, 16, 16, 16, 16, 16, 16]
#     without cache [44, 29, 29, 38, 61, 29, 53, 38, 44, 53]
#     equal: False | taking both names: True | warnings: 0
