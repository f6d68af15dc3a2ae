"""Write the base that is trained: the checkpoint, with small parts put into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from surgery.choices.parts import PARTS
from surgery.engine.parts.split import reparam, split
from surgery.events import Progress
from surgery.training.preparation import DEFAULT_RANK
from surgery.training.request import Request


def prepare(request: Request, progress: Progress) -> None:
    """Write the base with its small parts, which starts as the checkpoint, exactly.

    Args:
        request: The run; its base directory is written, or found done by an interrupted run.
        progress: Called with :class:`surgery.events.Event`.
    """
    given, part = request.preparation, PARTS[request.method]
    settings: dict[str, Any] = {name: getattr(given, name) for name in part.settings}
    if "rank" in settings:
        settings["rank"] = given.rank or DEFAULT_RANK
    operate: Callable[..., Any] = split if part.command == "split" else reparam
    operate(
        request.asked,
        request.base,
        method=part.name,
        scope=given.scope,
        seed=request.settings.options.seed,
        resume=True,
        progress=progress,
        **settings,
    )
