"""Write the table of families into the documentation: what of each can be cut, and who runs it.

    python -m benchmarks.families

A test holds the page to what this makes of the families' own files.
"""

from __future__ import annotations

from pathlib import Path

from surgery.architectures import ARCHITECTURES, Architecture, Config, attention_sites
from surgery.architectures.seams import seams_of
from surgery.runtime.families import HOMES

PAGE = Path(__file__).resolve().parent.parent / "docs" / "pages" / "index.md"
BEGIN, END = "<!-- families -->\n", "<!-- /families -->\n"
HEAD = (
    "Family",
    "`model_type`",
    "Query-key",
    "Value-output",
    "Neurons",
    "The bare command prunes at most",
    "Trained and measured by",
    "Runs cut",
    "Other programs",
)
RUNS = {"ct2": "CTranslate2", "gguf": "llama.cpp", "ggml": "whisper.cpp"}


def query_key(family: Architecture) -> str:
    """Say what can leave queries and keys, in blocks of the usual configuration."""
    config = Config(family, {"model_type": family.model_type}, family.title)
    told: dict[str, None] = {}
    for site in attention_sites(family, config, ""):
        seam = seams_of(site)["qk"]
        if seam.why_not is not None:
            told["stays: " + seam.why_not.split(": ")[-2]] = None
        else:
            told["vectors" if seam.mixes else "whole frequencies"] = None
    return ", or ".join(told)


def value_output(family: Architecture) -> str:
    """Say what can leave values and outputs, likewise."""
    config = Config(family, {"model_type": family.model_type}, family.title)
    sites = attention_sites(family, config, "")
    return "stays" if any("vo" in site.closed for site in sites) else "vectors"


def row(family: Architecture) -> tuple[str, ...]:
    """Return the cells of one family."""
    measured = {
        ("audio", "next token"): "word error rate",
        ("text", "next token"): "perplexity",
    }.get((family.input, family.predicts), "hidden states; no `tune`")
    others = [RUNS[target] for target in family.exports if target in RUNS]
    others += ["openai-whisper"] if "openai-whisper" in family.exports else []
    preset = family.preset
    return (
        family.title,
        f"`{family.model_type}`",
        query_key(family),
        value_output(family),
        "yes" if family.linears else "no",
        preset.reason.split(";")[0],
        measured,
        "yes" if family.model_type in HOMES else "merged only",
        ", ".join(sorted(others)),
    )


def table() -> str:
    """Return all families as Markdown."""
    rows = [HEAD, ("---",) * len(HEAD), *map(row, ARCHITECTURES.values())]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def with_table(page: str) -> str:
    """Return the page with the table of today."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + "\n" + table() + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text("utf-8")), encoding="utf-8")
