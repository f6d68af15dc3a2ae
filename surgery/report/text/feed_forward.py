"""Feed-forward blocks that lost neurons, as people are told of them: widths, errors, sentences.

What the page, the card and the screen show of them is worded here once.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from surgery.report.model.report import FeedForwardReport, Report, Saving
from surgery.report.text.layers import layers_clause, left_layers
from surgery.report.wording import capitalised, percent, scientific

STOCK = (
    "A stock checkpoint: the class of the original, with {smaller}. Whatever "
    "loads the original loads it without remote code: transformers, and llama.cpp, vLLM or "
    "CTranslate2 where they know the architecture."
)
LEFT = "Nothing merges it back: the layers that left are in no file."
OWN_WIDTHS = (
    "Blocks differ in width, which stock classes cannot say: it carries the code that runs it. "
    "CTranslate2 (of a Whisper) and llama.cpp (of most of the LLaMA kind) hold it as small as it "
    "is; surgery export --list says which."
)
UNCOUPLED = "Nothing merges it back: the neurons that went are in no file."
FITTED = (
    "Nothing merges it back: the maps behind the neurons were fitted to those that stay, and "
    "the others are in no file."
)
DASH = "—"


def is_narrower(report: Report) -> bool:
    """Whether the report is about feed-forward blocks that were to lose neurons."""
    return bool(report.feed_forward)


def lost_neurons(report: Report) -> bool:
    """Whether any block lost a neuron."""
    return any(block.kept < block.before for block in report.feed_forward)


def was_cut(report: Report) -> bool:
    """Whether any block lost a neuron, or any stack a layer."""
    attention = _saving(report, "attention")
    heads = attention is not None and attention.stored < attention.before
    return lost_neurons(report) or left_layers(report) or heads or not is_known(report)


def is_known(report: Report) -> bool:
    """Whether it is known what becomes of each block: a budget that compares them has to be run."""
    options = report.options
    compares = options.get("layout") == "ragged" or "layers" in options.get("seams", ())
    return is_fitted(report) or not is_narrower(report) or not compares


def is_ragged(report: Report) -> bool:
    """Whether blocks of a tower differ in width, or have none: no stock class can say that."""
    towers = ({one.kept for one in blocks} for blocks in towers_of(report).values())
    return any(len(kept) > 1 or not min(kept) for kept in towers)


def form_text(report: Report) -> str:
    """Say what kind of checkpoint it is, and who loads it."""
    if is_ragged(report):
        return OWN_WIDTHS
    smaller = ["fewer layers"] if left_layers(report) else []
    if lost_neurons(report) or not smaller:
        smaller.append("narrower feed-forward blocks")
    return STOCK.format(smaller=" and ".join(smaller))


def is_fitted(report: Report) -> bool:
    """Whether anything was run: without it, no block's error is known."""
    return report.calibration is not None


def is_refitted(report: Report) -> bool:
    """Whether maps behind the neurons were fitted to those that stay."""
    return report.options.get("refit") is not False


def towers_of(report: Report) -> dict[str, list[FeedForwardReport]]:
    """Return the blocks of each tower in layer order, towers in the order they occur."""
    towers: dict[str, list[FeedForwardReport]] = {}
    for block in report.feed_forward:
        towers.setdefault(block.scope, []).append(block)
    return {name: sorted(some, key=lambda one: one.layer) for name, some in towers.items()}


def neuron_parameters(report: Report) -> dict[str, float]:
    """Return how many parameters go with a neuron of each tower; empty where nobody counted."""
    whole = _saving(report, "ffn")
    if left_layers(report):  # what towers lost is not their neurons' alone
        kept = sum(block.kept for block in report.feed_forward)
        each = whole.stored / kept if whole is not None and kept else 0.0
        return dict.fromkeys(towers_of(report), each) if each else {}
    neurons = sum(block.before for block in report.feed_forward)
    found: dict[str, float] = {}
    if report.sites and whole is not None and neurons:  # of towers more went than neurons
        return dict.fromkeys(towers_of(report), whole.before / neurons)
    for scope, blocks in towers_of(report).items():
        tower, gone = _saving(report, scope), sum(one.before - one.kept for one in blocks)
        if tower is not None and gone and tower.before > tower.stored:
            found[scope] = (tower.before - tower.stored) / gone
        elif whole is not None and neurons and whole.before:
            found[scope] = whole.before / neurons
        else:
            return {}
    return found


def _saving(report: Report, name: str) -> Saving | None:
    return next((saving for saving in report.savings if saving.name == name), None)


def span(numbers: Sequence[int]) -> str:
    """Write the range of some whole numbers: ``1,216``, ``960–1,216``."""
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def widths_text(blocks: Sequence[FeedForwardReport]) -> str:
    """Say how wide some blocks (at least one) are now: ``1,216 of 1,536``."""
    before, kept = [one.before for one in blocks], [one.kept for one in blocks]
    return f"all {span(before)}" if before == kept else f"{span(kept)} of {span(before)}"


def error_span(values: Sequence[float]) -> str:
    """Write the range of some errors: ``0.0312–0.131``; a dash without any."""
    known = [value for value in values if isfinite(value)]
    if not known:
        return DASH
    low, high = scientific(min(known)), scientific(max(known))
    return low if low == high else f"{low}–{high}"


def narrower_sentence(report: Report) -> str:
    """Say how much went, of what, and how wide blocks are now."""
    towers = towers_of(report)
    if not was_cut(report):
        return "Nothing was cut: every feed-forward block keeps all of its neurons."
    kept = [
        f"{widths_text(blocks)}{' neurons' if index == 0 else ''}"
        + (f" in the {scope}" if len(towers) > 1 else "")
        for index, (scope, blocks) in enumerate(towers.items())
    ]
    widths = " and ".join(", ".join(kept).rsplit(", ", 1))
    if not is_known(report):
        model, left = _saving(report, "model"), layers_clause(report)
        share = "So much" if model is None else percent(model.removed)
        told = f"{share} of the model would go, of which blocks real input will say"
        return f"{told}; {left}." if left else f"{told}."
    dry = report.output is None
    widths = f"each feed-forward block {'would keep' if dry else 'keeps'} {widths}"
    if left_layers(report):
        left = layers_clause(report)
        widths = f"{left}, and {widths}" if lost_neurons(report) else left
    ffn, model = _saving(report, "ffn"), _saving(report, "model")
    if ffn is None or model is None:
        return f"{capitalised(widths)}."
    verb = "would go" if dry else "is gone"
    parts = f"{percent(ffn.removed)} of its feed-forward parameters"
    attention = _saving(report, "attention")
    if attention is not None:
        parts = f"{percent(attention.removed)} of its attention and {parts}"
    return f"{percent(model.removed)} of the model {verb}, {parts}: {widths}."


def refit_text(report: Report) -> str:
    """Say what the refit is worth, block by block; empty where nothing was run or refitted."""
    blocks = [one for one in report.feed_forward if one.kept < one.before]
    errors = [(one.fitted_error, one.deleted_error) for one in blocks]
    errors = [both for both in errors if all(map(isfinite, both))]
    if not errors or not is_fitted(report):
        return ""
    fitted, deleted = (sum(some) / len(errors) for some in zip(*errors, strict=True))
    text = f"a block's output is off by {scientific(fitted)} on average"
    if is_refitted(report):
        return f"{text}; had neurons only been deleted, by {scientific(deleted)}"
    return f"{text}: neurons were only deleted"


def worst_text(report: Report) -> str:
    """Say which block is furthest off; empty where nothing was run."""
    blocks = [one for one in report.feed_forward if isfinite(one.fitted_error)]
    if not blocks or not is_fitted(report):
        return ""
    worst = max(blocks, key=lambda one: one.fitted_error)
    return f"{scientific(worst.fitted_error)}, {worst.scope} layer {worst.layer}"


def ridge_told(ridge: float) -> str:
    """Say how much white input was mixed into what neurons did."""
    return f"{percent(ridge)} of white input mixed in" if ridge else "none: measured moments alone"


def final_text(report: Report) -> str:
    """Say that there is no way back, and why."""
    if left_layers(report) and not lost_neurons(report):
        return LEFT
    return FITTED if is_refitted(report) else UNCOUPLED
