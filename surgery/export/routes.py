"""Which targets a checkpoint fits: what each keeps of its savings, and what would fit better."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from surgery.carried.remote_code import FILE
from surgery.export.fit import kept_share
from surgery.export.target import Choice, Fit, Target, fits
from surgery.export.targets import HOMES, target
from surgery.stored.adapted import AdaptedSource, open_model
from surgery.stored.stored import Stored, check_loads, read_stored


@dataclass(frozen=True)
class Route:
    """How one target and one checkpoint go together; see :class:`surgery.export.target.Fit`.

    Attributes:
        target: Name of the target; empty for the checkpoint itself, which needs no export.
        title: The runtime as its users call it.
        fit: Whether it fits.
        missing: Modules that are not installed here, without which it cannot be written.
        untried: Those without which it is written, but not run and compared.
        install: The command that installs them.
    """

    target: str
    title: str
    fit: Fit
    missing: list[str] = field(default_factory=list)
    untried: list[str] = field(default_factory=list)
    install: str = ""


def export_routes(checkpoint: str | Path, *, base: str | Path | None = None) -> list[Route]:
    """Say which targets a checkpoint fits, what each keeps of its savings, and what would fit.

    Nothing is read but headers and configuration, and nothing is written.

    Args:
        checkpoint: As for :func:`export`.
        base: Of an adapter, its base.
    """
    with open_model(checkpoint, base=base) as source:
        stored = read_stored(source)
        check_loads(source)
        own = _as_it_is(stored)
        routes = [] if own is None else [own]
        for name in HOMES:
            one = target(name)
            missing, untried = one.missing(comparing=False), one.missing(comparing=True)
            fit = fit_of(one, stored, Choice())
            routes.append(Route(name, one.title, fit, missing, untried, one.install))
        return routes


def _as_it_is(stored: Stored) -> Route | None:
    """Return how the checkpoint runs without any export; ``None``: it does in this package only."""
    directory = stored.source.directory
    if directory is None or isinstance(stored.source, AdaptedSource):
        return None
    if not stored.operations:
        return Route("", "transformers", fits("the model as it is"))
    if not (directory / FILE).is_file():
        return None
    kept = kept_share(stored, stored.ranks, stored.neurons)
    fit = fits("the checkpoint as it is", kept=kept)
    return Route("", "transformers, trust_remote_code=True", fit)


def fit_of(chosen: Target, stored: Stored, choice: Choice) -> Fit:
    """Return whether a checkpoint fits, without advice that leads to a target that refuses it."""
    fit = chosen.fit(stored, choice)
    for name in re.findall(r"--to ([\w-]+)", fit.remedy or ""):
        other = target(name).fit(stored, Choice()) if name in HOMES else None
        if other is not None and not other.possible:
            return replace(fit, remedy=None if other.needed else other.form)
    return fit
