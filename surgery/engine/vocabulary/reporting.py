"""From a plan to the report that every view is drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

from surgery.engine.vocabulary.plan import TrimPlan, parameters_per_token
from surgery.engine.vocabulary.uses import joint_worth
from surgery.errors import SurgeryError
from surgery.report.accounting import told_source
from surgery.report.model.report import Quantity, Report, Saving
from surgery.report.model.vocabulary import VocabularyReport, VocabularyStep, VocabularyUse
from surgery.runtime.manifest import TRIM_VOCABULARY
from surgery.stored.stored import stored_dtype
from surgery.version import versions
from surgery.vocabulary.tokenizer import Vocabulary

POINTS = 60
"""Of the curve."""

STOCK = (
    "A stock checkpoint: config.json says vocab_size = {rows}, and whatever loads the original "
    "loads it with its own tokenizer."
)
ELSEWHERE = (
    "openai-whisper and whisper.cpp find special tokens by the size of the vocabulary, and cannot "
    "hold a trimmed Whisper."
)
FINAL = "Nothing merges it back: the rows of the tokens that left are in no file."
RENORMALISED = (
    "Perplexities before and after do not compare, since text is cut to other tokens and fewer "
    "share the probability; bits per byte do."
)


def build_report(plan: TrimPlan, *, sha256: Mapping[str, str], output: str | None) -> Report:
    """Assemble the report.

    Args:
        plan: What was asked for, and the tokens that stay.
        sha256: Hashes of the source's files.
        output: Where the result is.

    Raises:
        SurgeryError: A text whose tokens all stay would be cut to others: never seen.
    """
    source, choice = plan.source, plan.choice
    infos = source.infos.values()
    specs = [spec for some in plan.specs().values() for spec in some]
    gone = (plan.tokens.rows - len(choice.kept)) * parameters_per_token(plan.stored, plan.tokens)
    whole = sum(info.numel for info in infos)
    rows = sum(source.infos[name].numel for name in plan.tokens.tensors)
    savings = [
        Saving("vocabulary", "Embedding and output layer", rows, rows - gone, rows - gone),
        Saving("model", "Whole model", whole, whole - gone, whole - gone),
    ]
    before, after = (sum(one.nbytes for one in some) for some in (infos, specs))
    languages = [
        name.strip("<|>") for name, at in plan.tokens.languages.items() if at not in choice.renamed
    ]
    notes = [STOCK.format(rows=len(choice.kept)), FINAL]
    if plan.stored.family.input == "audio":
        notes.append(ELSEWHERE)
    one = plan.stored.claims.model_class
    if one is not None and one.predicts_next and plan.stored.family.input == "text":
        notes.append(RENORMALISED)
    return Report(
        title=f"{source.name}: a smaller vocabulary",
        method=TRIM_VOCABULARY,
        options=plan.options.plain(),
        preset=None,
        source=told_source(source, stored_dtype(source), sha256),
        versions=versions(),
        sites=[],
        savings=savings,
        quantities=[Quantity("disk_bytes", "Weights on disk", "bytes", before, after)],
        notes=[*notes, *plan.trimmed.notes],
        output=output,
        vocabulary=VocabularyReport(
            kind=plan.tokens.vocabulary.title,
            before=plan.tokens.rows,
            kept=len(choice.kept),
            reasons=dict(plan.reasons),
            uses=_uses(plan),
            languages=sorted(languages) if choice.renamed else [],
            curve=_curve(plan, whole),
        ),
    )


def _uses(plan: TrimPlan) -> list[VocabularyUse]:
    """Count what texts are cut to without the tokens that leave, and prove what stays the same.

    Raises:
        SurgeryError: A text whose tokens all stay is cut to others.
    """
    choice, old = plan.choice, plan.tokens.vocabulary
    new = Vocabulary(old.trimmed(choice.numbers, choice.renamed), where="the trimmed tokenizer")
    found = []
    for one in plan.uses:
        total = sum(one.uses.values())
        kept = sum(times for number, times in one.uses.items() if number in choice.numbers)
        told = VocabularyUse(one.name, kept / total if total else 1.0)
        if one.texts:
            cut = [each.tokens_of(one.texts) for each in (old, new)]
            for text, was, now in zip(one.texts, *cut, strict=True):
                same = [choice.numbers.get(number) for number in was]
                if None not in same and same != now:
                    raise SurgeryError(
                        "A text whose tokens all stay would be cut to others",
                        where=one.name,
                        found=repr(text[:200]),
                        hint="this is a bug worth reporting",
                    )
            told = VocabularyUse(one.name, told.covered, *(sum(map(len, each)) for each in cut))
        found.append(told)
    return found


def _curve(plan: TrimPlan, whole: int) -> list[VocabularyStep]:
    """Return what keeping only the most used tokens would save and cover."""
    vocabulary, uses = plan.tokens.vocabulary, [one for one in plan.uses if one.uses]
    if not uses:
        return []
    direct = joint_worth(uses)
    total = sum(direct.values())
    worth = vocabulary.worth(direct)
    must = plan.tokens.standing
    order = sorted(
        worth.keys() - must, key=lambda one: (-worth[one], len(vocabulary.names[one]), one)
    )
    covered = list(
        accumulate(
            (direct.get(one, 0.0) for one in order),
            initial=sum(times for number, times in direct.items() if number in must),
        )
    )
    each = parameters_per_token(plan.stored, plan.tokens) / whole
    last = len(order)
    points = sorted({round(last * at / POINTS) for at in range(POINTS + 1)})
    return [
        VocabularyStep(
            len(must) + at,
            (plan.tokens.rows - len(must) - at) * each,
            min(covered[at] / total, 1.0),
        )
        for at in points
    ]
