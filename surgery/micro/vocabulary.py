"""A Whisper tokenizer of ten words.

Whisper's tokenizer class rebuilds a byte-level BPE from vocabulary and merges, so the ten
words are spelled as merges: letters first, then ``on``, ``one``, and last the word with a
space before it. Text of anything but these words loses the letters it does not know.
"""

from __future__ import annotations

from transformers import WhisperTokenizer

from surgery.micro.synthesis import WORDS

SPACE = "Ġ"  # how byte-level BPE writes a space

END = "<|endoftext|>"
START = "<|startoftranscript|>"
NO_TIMESTAMPS = "<|notimestamps|>"

# The specials of an English-only Whisper, in its order.
SPECIALS = (
    END,
    START,
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    NO_TIMESTAMPS,
)


def build_tokenizer() -> WhisperTokenizer:
    """Return the tokenizer: ten words, with and without a leading space, and Whisper's specials."""
    merges = list(
        dict.fromkeys((word[:end], word[end]) for word in WORDS for end in range(1, len(word)))
    )
    merges += [(SPACE, word) for word in WORDS]
    letters = sorted({letter for word in WORDS for letter in word})
    tokens = dict.fromkeys([*letters, SPACE, *("".join(merge) for merge in merges)])
    tokenizer = WhisperTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,
        unk_token=END,
        bos_token=END,
        eos_token=END,
        pad_token=END,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIALS[1:])})
    tokenizer.set_prefix_tokens()  # the class did so before it knew the specials' numbers
    return tokenizer
