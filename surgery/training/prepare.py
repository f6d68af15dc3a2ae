"""Write the base that is trained: the checkpoint, with small parts put into it."""

from __future__ import annotations

from typing import Any

from surgery.engine.parts.split import reparam, split
from surgery.events import Progress
from surgery.training.request import Request
from surgery.training.start import DEFAULT_RANK


def prepare(request: Request, progress: Progress) -> None:
    """Write the base with its small parts, which starts as the checkpoint, exactly.

    Args:
        request: The run; its base directory is written, or found done by an interrupted run.
        progress: Called with :class:`surgery.events.Event`.
    """
    given, method = request.preparation, request.method
    common: dict[str, Any] = {
        "method": method,
        "scope": given.scope,
        "seed": request.settings.options.seed,
        "resume": True,
        "progress": progress,
    }
    if method in ("sorsa", "pissa"):
        rank = given.rank or DEFAULT_RANK
        split(request.asked, request.base, rank=rank, targets=given.targets, **common)
    elif method in ("diagonal", "core"):
        if method == "core":
            common["up_block"] = given.up_block
        reparam(request.asked, request.base, pairs=given.pairs, **common)
    else:
        more: dict[str, Any] = {"reflections": given.reflections, "targets": given.targets}
        reparam(request.asked, request.base, **common, **more)
