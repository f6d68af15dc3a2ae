"""Only what is to be said is learnt: completions, and the assistant's turns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from surgery.errors import SurgeryError
from surgery.evaluation.rows import Document
from surgery.training.examples import IGNORED, Example
from surgery.training.tasks import check_training_data
from surgery.training.text_data import read_examples, to_example

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .:?+=\n"
CHAT = (("system", "Be brief."), ("user", "Hi?"), ("assistant", "Yes."), ("user", "Bye"))
TURNS = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def tokenizer(*, eos: bool = True, template: str | None = None) -> Any:
    """Letter by letter, but ``=4`` and ``[assistant]`` are one token each; ``<s>`` goes first."""
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "</s>", "[system]", "[user]", "[assistant]"]
    words = {word: number for number, word in enumerate([*special, *LETTERS, "=4"])}
    made = Tokenizer(models.BPE(words, [("=", "4")]))
    made.add_special_tokens(special)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>" if eos else None
    )
    fast.chat_template = template
    return fast


def learnt(example: Example, by: Any) -> list[str]:
    """What is learnt, stretch by stretch."""
    assert len(example.tokens) == len(example.labels)
    stretches: list[list[int]] = [[]]
    for token, label in zip(example.tokens, example.labels, strict=True):
        assert label in (token, IGNORED)
        if label == IGNORED:
            stretches.append([])
        else:
            stretches[-1].append(token)
    return ["".join(by.convert_ids_to_tokens(each)) for each in stretches if each]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (Document("plain"), ["<s>plain</s>"]),
        (Document("2+2= 4", prompt=4), [" 4</s>"]),
        # Nobody who is given "2+2=" alone sees the token "=4": it is the answer's.
        (Document("2+2=4", prompt=4), ["=4</s>"]),
        (Document("text", prompt=0), ["<s>text</s>"]),
        (Document("", CHAT), ["Yes.\n"]),
        (Document("", CHAT[:3]), ["Yes.</s>"]),
    ],
)
def test_prompts_and_what_others_say_are_masked(document: Document, expected: list[str]) -> None:
    by = tokenizer()
    example = to_example(document, by)
    assert learnt(example, by) == expected
    assert example.tokens == [*document.tokens(by), by.eos_token_id]


def test_a_template_marks_what_the_assistant_says_up_to_the_end_of_its_turn() -> None:
    by = tokenizer(template=TURNS)
    document = Document("", (*CHAT, ("assistant", "So long.")))
    example = to_example(document, by)
    assert learnt(example, by) == ["Yes.</s>", "So long.</s>"]
    assert example.tokens == document.tokens(by)  # the template ends what it begins


def test_a_conversation_may_begin_with_the_assistant() -> None:
    by = tokenizer(template=TURNS)
    example = to_example(Document("", (("assistant", " Yes?"), ("user", "No."))), by)
    assert learnt(example, by) == ["Yes?</s>"]


def test_without_an_end_of_text_token_none_is_added() -> None:
    by = tokenizer(eos=False)
    assert learnt(to_example(Document("plain"), by), by) == ["<s>plain"]


def test_a_tokenizer_that_ends_its_texts_itself_is_not_helped() -> None:
    from tokenizers import processors

    by = tokenizer()
    by.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    example = to_example(Document("a= 4", prompt=2), by)
    assert learnt(example, by) == [" 4</s>"]
    assert example.tokens.count(1) == 1


def test_files_become_examples_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("a story\n")
    rows = [{"prompt": "a", "completion": "b"}, {"text": "c"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    by = tokenizer()
    found = [learnt(example, by) for example in read_examples(tmp_path, by)]
    assert found == [["b</s>"], ["<s>c</s>"], ["<s>a story\n</s>"]]


@pytest.mark.parametrize(
    ("row", "template", "found"),
    [
        ({"prompt": "a", "completion": ""}, None, "empty completion"),
        ({"prompt": "a", "completion": " \n"}, None, "empty completion"),
        ({"prompt": "a", "completion": ""}, TURNS, "empty completion"),
        ({"text": "\u2003"}, None, "white space"),
        (
            {"messages": [{"role": role, "content": ""} for role in ("user", "assistant")]},
            None,
            "white space",
        ),
        (
            {
                "messages": [
                    {"role": role, "content": words}
                    for role, words in (
                        ("user", "Hi"),
                        ("assistant", "Hi"),
                        ("user", "?"),
                        ("assistant", " "),
                    )
                ]
            },
            TURNS,
            "turn 4, of the role assistant, is empty",
        ),
        ({"messages": [{"role": "user", "content": "Hi"}]}, None, "roles user"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, TURNS, "roles user"),
        ({"prompt": "a"}, None, "prompt"),
        ({"messages": [{"role": "assistant"}]}, None, "messages"),
        (
            {"messages": [{"role": "assistant", "content": "Hi"}]},
            "{{ raise_exception('the user speaks first') }}",
            "the user speaks first",
        ),
        (
            {"messages": [{"role": role, "content": "Hi"} for role in ("user", "assistant")]},
            "{{ messages | length }}" + TURNS,
            "turn 2 of 2 changes what stands before it",
        ),
        (
            {"messages": [{"role": role, "content": "Hi"} for role in ("assistant", "user")]},
            "{% for m in messages %}[{{ m.role }}]{{ m.content if loop.last }}{% endfor %}",
            "turn 1 of 2",
        ),
    ],
)
def test_a_row_that_teaches_nothing_is_named_with_its_line(
    tmp_path: Path, row: Any, template: str | None, found: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"text": "good"}) + "\n\n" + json.dumps(row) + "\n")
    with pytest.raises(SurgeryError, match=rf"(?s)rows\.jsonl, line 3.*{found}"):
        read_examples(path, tokenizer(template=template))


def test_rows_without_words_are_refused_before_anything_is_prepared(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": " "}\n')
    with pytest.raises(SurgeryError, match=r"(?s)rows\.jsonl, line 1.*empty completion"):
        check_training_data(path, "text")


def test_a_real_tokenizer_masks_the_prompt_and_nothing_else(shared: Path) -> None:
    from transformers import AutoTokenizer

    by = AutoTokenizer.from_pretrained(shared / "checkpoints" / "stories260K")
    prompt, completion = "Once upon a time, there was a girl", " named Lily. She was kind."
    example = to_example(Document(prompt + completion, prompt=len(prompt)), by)
    said = [label for label in example.labels if label != IGNORED]
    assert by.decode(said, skip_special_tokens=True).strip() == completion.strip()
    assert said[-1] == by.eos_token_id
