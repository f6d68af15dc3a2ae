"""The tables of ``surgery evaluate``: figures with their intervals, then drift layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from surgery.evaluation.results import METRICS
from surgery.report.wording import amount, change, count, printable, scientific
from surgery_cli.tables import capped, table

if TYPE_CHECKING:
    from surgery.evaluation.bootstrap import Estimate
    from surgery.evaluation.results import DataSet, Evaluated, Evaluation, Row

_BLOCKS = "▁▂▃▄▅▆▇█"
_STRIP = 24  # widest strip of layers; more layers share a character
_NAME = 22  # columns

_TITLES = {
    "speech": "Speech",
    "text": "Text",
    "questions": "Multiple choice",
    "embedding": "Embeddings",
}
_COLUMNS = {
    "speech": ("wer", "change", "same_text", "encoder_error", "time_ratio"),
    "text": ("perplexity", "change", "bits_per_byte", "output_error", "time_ratio"),
    "questions": ("accuracy", "change", "accuracy_raw", "time_ratio"),
    "embedding": ("embedding_error", "pooled_distance", "time_ratio"),
}
_HEADINGS = {
    "wer": "WER %",
    "change": "change",
    "same_text": "same text",
    "encoder_error": "drift",
    "output_error": "drift",
    "embedding_error": "drift",
    "pooled_distance": "1 − cosine",
    "perplexity": "perplexity",
    "bits_per_byte": "bits/B",
    "accuracy": "right %",
    "accuracy_raw": "raw %",
    "time_ratio": "time",
}
_CHANGED = {"speech": "wer", "text": "perplexity", "questions": "accuracy"}


def evaluation_view(found: Evaluation) -> RenderableType:
    """Render an evaluation for a terminal of 80 columns, stacked on narrower ones."""
    tables = [_figures(found, kind) for kind in dict.fromkeys(_kind(found, d) for d in found.data)]
    if any(row.layers for row in found.rows):
        tables.append(_layers(found))
    parts = [*map(capped, (*tables, _times(found))), capped(_legend(found))]
    return Group(*(Padding(part, (0, 0, 1, 0)) for part in parts[:-1]), parts[-1])


def _kind(found: Evaluation, data: DataSet) -> str:
    return "questions" if data.asks else found.kind


def _figures(found: Evaluation, kind: str) -> Table:
    sets = [data for data in found.data if _kind(found, data) == kind]
    rows = [row for row in found.rows if row.data in {data.name for data in sets}]
    columns = [name for name in _COLUMNS[kind] if _known(rows, name)]
    shown = table(_TITLES[kind], *(_HEADINGS[name] for name in columns))
    for data in sets:
        _section(shown, data)
        for model in found.models:
            row = found.row(model.name, data.name)
            cells = [_cell(kind, row, name) for name in columns]
            shown.add_row(_name(found, model, row), *cells)
    return shown


def _known(rows: list[Row], name: str) -> bool:
    if name == "change":
        return any(row.changes for row in rows)
    return any(name in row.figures for row in rows)


def _section(shown: Table, data: DataSet) -> None:
    """Begin a set of data: its name on a line of its own."""
    if shown.row_count:
        shown.add_section()
    shown.add_row(_word(data.name, "bold"))


def _name(found: Evaluation, model: Evaluated, row: Row) -> Text:
    text = _word(model.name, "cyan")
    if row.leaked:
        text.append("\nLEAKED", style="bold red")
    text.append(f"\n{count(model.parameters)}", style="dim")
    first = found.models[0]
    if model is not first and model.parameters != first.parameters:
        text.append(f"  {change(first.parameters, model.parameters)}", style="dim")
    return text


def _cell(kind: str, row: Row, name: str) -> Text:
    if name == "change":
        return _change(row, _CHANGED[kind])
    figure = row.figures.get(name)
    if figure is None:
        return Text("reference" if name == "time_ratio" else "—", style="dim")
    below = _interval(name, figure)
    if name == "bits_per_byte":
        below = ""  # the perplexity's interval in other words
    if name == "output_error" and "kl_divergence" in row.figures:
        below = f"KL {scientific(row.figures['kl_divergence'].value)}"
    return _with_interval(_worded(name, figure.value), below)


def _change(row: Row, metric: str) -> Text:
    figure = row.changes.get(metric)
    if figure is None:
        return Text("—", style="dim")
    style = "dim"  # what the interval cannot tell from no change
    if figure.low is not None and figure.high is not None:
        worse, better = figure.low > 0, figure.high < 0
        if METRICS[metric].better == "higher":
            worse, better = better, worse
        style = "bold red" if worse else "bold green" if better else "dim"
    interval = _interval(metric, figure, signed=True)
    return _with_interval(_signed(metric, figure.value), interval, style)


def _with_interval(value: str, interval: str, style: str = "") -> Text:
    text = Text(value, style=style)
    if interval:
        text.append(f"\n{interval}", style="not bold dim")
    return text


def _interval(name: str, figure: Estimate, *, signed: bool = False) -> str:
    if figure.low is None or figure.high is None:
        return ""
    worded = _signed if signed else _worded
    low, high = (worded(name, end, 2).rstrip(" %×") for end in (figure.low, figure.high))
    return f"{low}…{high}"


def _signed(name: str, value: float, digits: int = 3) -> str:
    worded = _worded(name, abs(value), digits)
    if not any(digit in worded for digit in "123456789"):
        return worded
    return ("−" if value < 0 else "+") + worded


def _worded(name: str, value: float, digits: int = 3) -> str:
    if name in ("wer", "accuracy", "accuracy_raw"):
        return f"{value:.1f}"
    if name in ("same_text", "same_token"):
        return f"{value:.0f} %"
    if name in ("perplexity", "bits_per_byte"):
        return f"{value:.{digits}f}" if value < 10 else amount(value, "")
    if name.endswith("_ratio"):
        return f"{value:.2f}×"
    return scientific(value)


def _layers(found: Evaluation) -> Table:
    """Show the relative error after every layer as a strip of blocks, first layer at the left."""
    shown = table("Drift by layer", "", "first to last", "first", "last", "largest", left=3)
    shown.columns[2].no_wrap = True
    for data in found.data:
        rows = [row for row in found.rows if row.data == data.name and row.layers]
        if rows:
            _section(shown, data)
        top = max((max(each) for row in rows for each in row.layers.values()), default=0.0)
        for row in rows:
            for tower, errors in row.layers.items():
                largest = max(range(len(errors)), key=errors.__getitem__)
                shown.add_row(
                    _word(row.model, "cyan"),
                    Text("" if tower == "layers" else tower, style="dim"),
                    Text(_strip(errors, top), style="blue"),
                    scientific(errors[0]),
                    scientific(errors[-1]),
                    f"layer {largest}" if errors[largest] else "—",
                )
    return shown


def _strip(errors: list[float], top: float) -> str:
    step = -(-len(errors) // _STRIP)
    groups = (errors[start : start + step] for start in range(0, len(errors), step))
    shares = (max(group) / top if top else 0.0 for group in groups)
    return "".join(
        _BLOCKS[min(int(share * len(_BLOCKS)), len(_BLOCKS) - 1)] if share > 0 else "·"
        for share in shares
    )


def _times(found: Evaluation) -> Table:
    speech = found.kind == "speech"
    headings = ("texts", "ratio", "encoder", "ratio") if speech else ("time", "ratio")
    names = ("time", "encoder_time") if speech else ("time",)
    shown = table("Time, ms", *headings)
    for data in found.data:
        _section(shown, data)
        for model in found.models:
            row = found.row(model.name, data.name)
            cells: list[Text] = []
            for name in names:
                ratio = row.figures.get(f"{name}_ratio")
                cells.append(Text(_milliseconds(row.figures[name].value)))
                cells.append(_ratio(ratio))
            shown.add_row(_word(model.name, "cyan"), *cells)
    return shown


def _milliseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def _ratio(ratio: Estimate | None) -> Text:
    if ratio is None:
        return Text("—", style="dim")
    text = Text(f"{ratio.value:.2f}×")
    if ratio.low is not None and ratio.high is not None:
        text.append(f"  {ratio.low:.2f}…{ratio.high:.2f}", style="dim")
    return text


def _word(name: str, style: str) -> Text:
    """Return a name for the first column; of a long one the end, where names differ."""
    name = printable(name)
    short = name if len(name) <= _NAME else "…" + name[1 - _NAME :]
    return Text(short, style=style)


def _legend(found: Evaluation) -> Text:
    text = Text()
    for label, words in _remarks(found):
        if text:
            text.append("\n")
        text.append(f"{label}: ", style="dim")
        text.append(printable(words), style="dim" if label != "Note" else "")
    return text


def _remarks(found: Evaluation) -> Iterator[tuple[str, str]]:
    for one in found.data:
        unit = "s of audio" if found.kind == "speech" else "tokens"
        word = "recording" if found.kind == "speech" else "question" if one.asks else "document"
        plural = "" if one.samples == 1 else "s"
        units = " or ".join(f"a {each}" for each in one.units)
        each = f" ({'each ' if plural else ''}{units})" if units else ""
        yield one.name, f"{one.samples:,} {word}{plural}{each}, {one.amount:,.0f} {unit}"
    if found.settings.get("context"):
        told = f"at most {found.settings['context']:,} tokens; those of a document overlap by half"
        yield "Windows", told
    drawn = " and ".join(dict.fromkeys(one.resampled for one in found.data))
    first = found.models[0].name
    yield "Intervals", f"95 %, {found.settings['resamples']} draws of {drawn}"
    if len(found.models) > 1:
        yield "Change, drift, ratio", f"against {first}; a change's interval is of the pairs"
    speech = found.kind == "speech"
    yield "Time", f"per {'second of audio' if speech else 'token'}, on {found.settings['device']}"
    if any(one.asks for one in found.data):
        yield "Right", "the likeliest choice, a character; raw: the likeliest as it stands"
    for note in found.notes:
        yield "Note", note
