"""Split and re-parameterise: from a model's name to a finished directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from surgery.checkpoint.resolve import resolve
from surgery.choices.common import ScopeChoice, choice
from surgery.choices.option import flag
from surgery.choices.parts import PARTS, by_command
from surgery.choices.settings import Solver
from surgery.engine.parts.factor import Factor
from surgery.engine.parts.factor_options import FactorOptions
from surgery.engine.parts.factor_plan import make_factor_plan
from surgery.engine.parts.linear_options import LinearOptions, treatment_of
from surgery.engine.parts.linear_plan import make_linear_plan
from surgery.engine.parts.parts_surgery import PartsSurgery
from surgery.engine.parts.small_parts import SmallParts
from surgery.engine.result import default_output, planned, produce
from surgery.errors import UsageError
from surgery.events import Progress, ignore
from surgery.methods import Form, SeamName
from surgery.report.model.report import Report


def split(
    model: str | Path,
    out: str | Path | None = None,
    *,
    method: str = "sorsa",
    rank: int,
    targets: Sequence[str] | None = None,
    scope: ScopeChoice = "all",
    scale: float = 1.0,
    solver: Solver = "fast",
    tolerance: float = 1e-3,
    seed: int = 0,
    dtype: str | None = None,
    data: str | Path | None = None,
    force: bool = False,
    resume: bool = False,
    dry_run: bool = False,
    revision: str | None = None,
    progress: Progress = ignore,
) -> Report:
    """Split linear maps into a trainable principal part and a frozen residual.

    ``W = scale·W_p + W_r`` with ``W_p`` the best part of the given rank. The principal part is
    kept in float32, the residual is rounded once after it was subtracted, so the result computes
    what the original computes, to the cast.

    Args:
        model: Directory (dense or pruned), ``.pt``, short name, hub id, or ``whisper-micro``.
        out: Result directory; ``checkpoints/<name>-<method>`` by default.
        method: ``sorsa`` (U, S and V apart) or ``pissa`` (two factors).
        rank: Rank of the principal part.
        targets: Roles to split (``q``, ``k``, ``v``, ``o``, ``gate``, ``up``, ``down``); all by
            default.
        scope: ``encoder``, ``decoder``, ``cross`` or ``all`` blocks.
        scale: Factor in front of the principal part.
        solver: ``fast`` (block Krylov with a certified bound) or ``full`` SVD.
        tolerance: Share of the best part's energy that the fast solver may miss.
        seed: Where the fast solver's randomness begins.
        dtype: Dtype of the frozen weights; their own by default.
        data: Audio folder or text file to measure on, before and after.
        force: Replace a result that is in the way.
        resume: Go on from an interrupted run with the same source and options.
        dry_run: Compute and report, write nothing.
        revision: Hub revision.
        progress: Called with :class:`surgery.events.Event`.

    Returns:
        The report: trainable parameters, spectra, energy captured and certified bounds.

    Raises:
        SurgeryError: What is wrong, where, and what to do; the target is untouched.
    """
    choice("--method", method, by_command("split"))
    treatment = treatment_of(method, rank=rank, scale=scale, solver=solver, tolerance=tolerance)
    options = LinearOptions(treatment, _roles(targets), scope, seed, dtype)
    return _treat(model, out, options, data, force, resume, dry_run, revision, progress)


def reparam(
    model: str | Path,
    out: str | Path | None = None,
    *,
    method: str = "hra",
    reflections: int | None = None,
    targets: Sequence[str] | None = None,
    pairs: Sequence[SeamName] | None = None,
    up_block: int | None = None,
    scope: ScopeChoice = "all",
    seed: int = 0,
    dtype: str | None = None,
    data: str | Path | None = None,
    force: bool = False,
    resume: bool = False,
    dry_run: bool = False,
    revision: str | None = None,
    progress: Progress = ignore,
) -> Report:
    """Put a small trainable map in front of frozen linear maps, or behind their heads.

    In front: orthogonal or nearly, and the identity at first. Behind: what Absorb-Decompose
    tunes, with orthonormal rows frozen in front of it. The function stays, to the cast.

    Args:
        model: Directory (dense or pruned), ``.pt``, short name, hub id, or ``whisper-micro``.
        out: Result directory; ``checkpoints/<name>-<method>`` by default.
        method: In front: ``hra`` (Householder reflections), ``goft`` (Givens rotations) or
            ``qgoft`` (free 2×2 blocks in their place). Behind: ``core`` (a square block a head)
            or ``diagonal`` (its singular values alone).
        reflections: HRA's number of reflections, even; 8 by default.
        targets: Roles to treat in front; by default q and v for HRA, q, k, v and o for GOFT, as
            in the papers.
        pairs: For core and diagonal: ``qk`` (behind keys), ``vo`` (behind values); both by default.
        up_block: For core: rows of an ``up`` map that share a block, 0 for none; by default 64 in
            families with RoPE, else 0.
        scope: ``encoder``, ``decoder``, ``cross`` or ``all`` blocks.
        seed: Where HRA's random start begins.
        dtype: Dtype of the frozen weights; their own by default.
        data: Audio folder or text file to measure on, before and after.
        force: Replace a result that is in the way.
        resume: Go on from an interrupted run with the same source and options.
        dry_run: Compute and report, write nothing.
        revision: Hub revision.
        progress: Called with :class:`surgery.events.Event`.

    Returns:
        The report: trainable parameters and what the start costs.

    Raises:
        SurgeryError: What is wrong, where, and what to do; the target is untouched.
    """
    choice("--method", method, by_command("reparam"))
    options: LinearOptions | FactorOptions
    _check_known(method, {"reflections": reflections, "targets": targets, "pairs": pairs})
    if PARTS[method].treatment is None:
        chosen = None if pairs is None else tuple(pairs)
        options = FactorOptions(cast(Form, method), chosen, scope, up_block, dtype)
    else:
        _check_known(method, {"up_block": up_block})
        treatment = treatment_of(method, reflections=reflections)
        options = LinearOptions(treatment, _roles(targets), scope, seed, dtype)
    return _treat(model, out, options, data, force, resume, dry_run, revision, progress)


def _check_known(method: str, given: Mapping[str, object]) -> None:
    """Refuse settings that belong to other methods.

    Raises:
        UsageError: One was given.
    """
    known = PARTS[method].settings
    for name, value in given.items():
        if value is not None and name not in known:
            takes = ", ".join(map(flag, (*known, "scope")))
            raise UsageError(
                f"{method} has no use for {flag(name)}",
                hint=f"leave it out; {method} takes {takes}",
            )


def _roles(targets: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if targets is None else tuple(targets)


def _treat(
    model: str | Path,
    out: str | Path | None,
    options: LinearOptions | FactorOptions,
    data: str | Path | None,
    force: bool,
    resume: bool,
    dry_run: bool,
    revision: str | None,
    progress: Progress,
) -> Report:
    with resolve(str(model), revision=revision) as source:
        if not dry_run:
            source.start_hashing()
        surgery: PartsSurgery
        if isinstance(options, FactorOptions):
            surgery = Factor(make_factor_plan(source, options, str(model)))
        else:
            surgery = SmallParts(make_linear_plan(source, options, str(model)))
        method = surgery.plan.method
        target = Path(out) if out is not None else default_output(source, method)
        if dry_run:
            return planned(surgery.forecast(progress), surgery, str(model), target, data)
        return produce(
            surgery,
            target,
            method=method,
            asked=str(model),
            data=data,
            force=force,
            resume=resume,
            progress=progress,
        )
