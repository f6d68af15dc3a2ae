"""The options of calibration, shared by every command that plans a cut."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from surgery.engine.cut.calibrate import Calibrate

_PANEL = "Calibration: decide by what the model computes on real input"

Data = Annotated[
    str | None,
    typer.Option(
        "--calibrate",
        metavar="DIR|FILE",
        help="Recordings (Whisper), or text, .jsonl, or a folder of them. Default: 'shipped', "
        "what comes with surgery.",
        rich_help_panel=_PANEL,
    ),
]
Statistics = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Keep what calibration found here; used again where it exists.",
        rich_help_panel=_PANEL,
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Calibrate on the first so many recordings or documents only.",
        rich_help_panel=_PANEL,
    ),
]
PaddingWeight = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        help="What a frame of the silence that fills a window counts; default 0.1.",
        rich_help_panel=_PANEL,
    ),
]
Ridge = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        help="Share of white input that is mixed in; default 0.05. More is more cautious.",
        rich_help_panel=_PANEL,
    ),
]
AsRecorded = Annotated[
    bool,
    typer.Option(
        "--as-recorded",
        help="Do not vary the recordings in speed, noise and bandwidth.",
        rich_help_panel=_PANEL,
    ),
]
Language = Annotated[
    str,
    typer.Option(help="What is spoken, for a multilingual decoder.", rich_help_panel=_PANEL),
]
Trials = Annotated[
    bool | None,
    typer.Option(
        "--trials/--no-trials",
        help="Cut every pair on trial to learn what each costs: many passes. "
        "Default: with your own data.",
        rich_help_panel=_PANEL,
    ),
]
Refit = Annotated[
    bool | None,
    typer.Option(
        "--refit/--no-refit",
        help="Fit each output projection to what its heads keep: three more passes. "
        "Default: with your own data.",
        rich_help_panel=_PANEL,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="Where the model runs: cpu (the default), cuda, cuda:1, …", rich_help_panel=_PANEL
    ),
]


def make_calibrate(
    *,
    data: str | None,
    statistics: Path | None,
    samples: int | None,
    padding_weight: float | None,
    ridge: float | None,
    as_recorded: bool,
    language: str,
    device: str | None,
    trials: bool | None,
    refit: bool | None = None,
) -> Calibrate | None:
    """Return the library's settings; ``None`` where nothing is said of calibration.

    Raises:
        UsageError: Settings say how statistics are taken, and saved ones are to be used.
    """
    from surgery.engine.cut.calibrate import Calibrate
    from surgery.engine.measure.shipped import SHIPPED
    from surgery.errors import UsageError

    of_data = {
        "--samples": samples,
        "--padding-weight": padding_weight,
        "--as-recorded": as_recorded or None,
        "--language": None if language == "en" else language,
        "--device": device,
    }
    stray = [name for name, value in of_data.items() if value is not None]
    if data is None and statistics is None:
        if not stray and ridge is None and trials is None and refit is None:
            return None
        data = SHIPPED
    if data is None and stray:
        raise UsageError(
            f"{stray[0]} says how statistics are taken, and saved ones are to be used",
            hint="give --calibrate DIR|FILE, or leave it out",
        )
    numbers: dict[str, Any] = {"padding_weight": padding_weight, "ridge": ridge}
    return Calibrate(
        data=data,
        statistics=None if statistics is None else str(statistics),
        samples=samples,
        varied=not as_recorded,
        language=language,
        device=device,
        trials=trials,
        refit=refit,
        **{name: value for name, value in numbers.items() if value is not None},
    )
