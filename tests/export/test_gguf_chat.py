"""A GGUF says how one talks with a model, and where it stops; what it cannot hold is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from surgery.errors import CheckpointError, SurgeryError
from surgery.export.gguf.chat import Chat, read_chat
from surgery.export.gguf.run import LlamaCpp, partial
from surgery.export.gguf.words import read_words
from tests.engine.support import config_of, save_tiny
from tests.export.test_gguf import EXACT, error, fields, to_gguf

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")
TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
TOKENS = [f"<{number}>" for number in range(10)]


def write(directory: Path, **files: object) -> dict[str, Path]:
    """Write files, JSON unless they are text, ``__`` for the dot of their names."""
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (directory / name.replace("__", ".")).write_text(text)
    return {path.name: path for path in directory.iterdir() if path.is_file()}


def talker(directory: Path, **files: object) -> Path:
    """Save a tiny LLaMA that knows bytes and nothing else, half of them no characters."""
    save_tiny("llama", directory)
    letters = {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **letters, "▁": 259}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "vocab": vocabulary,
            "merges": [],
            "byte_fallback": True,
            "unk_token": "<unk>",
        },
    }
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}
    (directory / "vocab.json").unlink()
    write(directory, tokenizer__json=tokenizer, tokenizer_config__json=settings)
    write(directory, **files)
    return directory


def llama(directory: Path, seed: int) -> Path:
    """Save a random LLaMA with a vocabulary of bytes."""
    import torch
    import transformers

    talker(directory)
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=260,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.mark.parametrize(
    ("files", "templates"),
    [
        ({"chat_template__jinja": "a", "tokenizer_config__json": {"chat_template": "b"}}, "a"),
        ({"tokenizer_config__json": {"chat_template": "b"}}, "b"),
        ({"chat_template__json": {"chat_template": "c"}}, "c"),
        (
            {
                "tokenizer_config__json": {
                    "chat_template": [
                        {"name": "default", "template": "d"},
                        {"name": "tool_use", "template": "e"},
                        {"name": "broken"},
                        "nonsense",
                    ]
                }
            },
            {"default": "d", "tool_use": "e"},
        ),
        ({"tokenizer_config__json": {"chat_template": 7}}, {}),
        ({}, {}),
    ],
)
def test_templates_are_found_where_transformers_finds_them(
    files: dict[str, object], templates: str | dict[str, str], tmp_path: Path
) -> None:
    expected = {"default": templates} if isinstance(templates, str) else templates
    assert read_chat(write(tmp_path, **files), 2, TOKENS).templates == expected


def test_further_templates_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("r")
    files = write(tmp_path, chat_template__jinja="a")
    assert read_chat(files, 2, TOKENS).templates == {"default": "a", "rag": "r"}
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="template cannot be read"):
        read_chat(files, 2, TOKENS)


@pytest.mark.parametrize(
    ("config", "generation", "own", "held", "told"),
    [
        (2, None, None, {"eos": 2}, []),
        ([2, 5, 7], None, None, {"eos": 2, "eot": 5, "eom": 7}, []),
        (2, [2, 5], "<5>", {"eos": 5, "eot": 2}, []),
        (2, [5], {"content": "<2>"}, {"eos": 5}, []),  # transformers goes on after 2
        ([2, 5, 7, 8, 9], None, None, {"eos": 2, "eot": 5, "eom": 7}, ["does not stop at 8, 9"]),
        ([2, 2, True, -1, 99, "x"], None, None, {"eos": 2}, ["True, -1, 99, 'x'; left out"]),
        (None, None, None, {}, ["a default of its own"]),
    ],
)
def test_every_end_is_held_or_told(
    config: object,
    generation: object,
    own: object,
    held: dict[str, int],
    told: list[str],
    tmp_path: Path,
) -> None:
    files = write(
        tmp_path,
        tokenizer_config__json={"eos_token": own},
        generation_config__json={"eos_token_id": generation},
    )
    chat = read_chat(files, config, TOKENS)
    assert chat.held == held
    assert len(chat.notes) == len(told)
    assert all(one in note for one, note in zip(told, chat.notes, strict=True))


def test_a_chat_model_is_written_with_its_template_and_its_ends(tmp_path: Path) -> None:
    source = llama(tmp_path / "source", 0)
    named = [{"name": "default", "template": TEMPLATE}, {"name": "tool use", "template": "t"}]
    write(
        source,
        tokenizer_config__json=json.loads((source / "tokenizer_config.json").read_text())
        | {"chat_template": named},
        generation_config__json={"eos_token_id": [9, 2, 11, 12]},
    )
    made = to_gguf(source)
    found = fields(made)
    assert found["tokenizer.chat_template"] == TEMPLATE
    assert found["tokenizer.chat_template.tool_use"] == "t"
    assert found["tokenizer.chat_templates"] == ["tool_use"]
    ends = [found[f"tokenizer.ggml.{name}_token_id"] for name in ("eos", "eot", "eom")]
    assert ends == [2, 9, 11] and "does not stop at 12" in made.notes[-1]
    server: Any = LlamaCpp(made.output / "model.gguf", 48)._server
    asked = {"messages": [{"role": "user", "content": "ab"}], "max_tokens": 1}
    prompt = "[user] ab".replace(" ", "▁")
    assert server.handle_chat_completions(asked)["usage"]["prompt_tokens"] == len(prompt)


def test_a_template_without_words_is_left_out_and_told(tmp_path: Path) -> None:
    source = save_tiny("llama", tmp_path / "source")
    write(source, chat_template__jinja=TEMPLATE, generation_config__json={"eos_token_id": [5, 7]})
    made = to_gguf(source)
    found = fields(made)
    assert "tokenizer.chat_template" not in found and "was left out" in made.notes[-1]
    assert found["tokenizer.ggml.eos_token_id"] == 5 and found["tokenizer.ggml.eot_token_id"] == 7


def test_a_template_that_llama_cpp_cannot_read_is_told(tmp_path: Path) -> None:
    source = llama(tmp_path / "source", 0)
    write(source, chat_template__jinja="{% for m in messages %}{{ m.role ")
    made = to_gguf(source)
    assert error(made) <= EXACT and made.comparison is not None
    assert "starts with --chat-template only" in made.comparison.what
    (tmp_path / "not.gguf").write_bytes(b"nonsense")
    with pytest.raises(SurgeryError, match="cannot run what was written"):
        LlamaCpp(tmp_path / "not.gguf", 8)


@pytest.mark.parametrize("seed", range(3))
def test_bytes_that_are_no_characters_are_compared_as_all_others(seed: int, tmp_path: Path) -> None:
    source = llama(tmp_path / "source", seed)
    made = to_gguf(source)
    assert error(made) <= EXACT and made.comparison is not None
    assert made.comparison.what.startswith("log-probabilities of 12 tokens")
    config = config_of(source) | {"eos_token_id": list(range(3, 131))}  # nearly all others
    (source / "config.json").write_text(json.dumps(config))
    (source / "generation_config.json").unlink()
    again = to_gguf(source)
    assert error(again) <= EXACT


def test_where_the_server_tells_nothing_nothing_is_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = LlamaCpp._completed
    monkeypatch.setattr(
        LlamaCpp, "_completed", lambda *said, **more: {**asked(*said, **more), "logprobs": None}
    )
    made = to_gguf(llama(tmp_path / "source", 0))
    assert made.comparison is not None and made.comparison.error is None
    assert made.comparison.what == "that it runs; llama.cpp told no probabilities"


def test_tokens_that_end_within_a_character_are_known(tmp_path: Path) -> None:
    words = read_words(talker(tmp_path / "source") / "tokenizer.json", 260)
    assert partial(words) == list(range(3 + 0x80, 3 + 0x100))
    tokenizer: dict[str, Any] = {
        "model": {"type": "BPE", "vocab": {"Ġa": 0, "ĠÃ": 1, "Ã©": 2, "é": 3}, "merges": []},
        "added_tokens": [{"id": 4, "content": "<é>", "special": True}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert partial(read_words(tmp_path / "tokenizer.json", 5)) == [1, 3]
    assert Chat().notes
