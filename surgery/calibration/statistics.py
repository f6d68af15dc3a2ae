"""The result of a calibration: the moments, and what they were taken of and on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from surgery.architectures.base import AttentionSite
from surgery.calibration.data import CalibrationData
from surgery.calibration.moments import MOMENTS, Moments
from surgery.calibration.sensitivity import Trials
from surgery.calibration.witness import Output
from surgery.errors import UsageError
from surgery.evaluation.fingerprints import sketch
from surgery.evaluation.kinds import Kind


@dataclass(frozen=True)
class CalibratedOn:
    """Which data the statistics were taken on.

    Attributes:
        name: What to call it.
        kind: ``audio`` or ``text``.
        samples: A sketch of the content hashes of its samples, to notice data that is later
            measured on (see :mod:`surgery.evaluation.fingerprints`).
        count: How many recordings or documents there were.
    """

    name: str
    kind: Kind
    samples: tuple[str, ...]
    count: int

    @classmethod
    def of(cls, data: CalibrationData) -> CalibratedOn:
        """Describe data; reads every recording."""
        return cls(data.name, data.kind, tuple(sketch(data.fingerprints())), len(data))


@dataclass(frozen=True, eq=False)
class Statistics:
    """Moments of attention blocks.

    Attributes:
        sites: By the block's path, as the checkpoint spells it.
        source_sha256: SHA-256 of every weight file of the model, by file name, as
            :meth:`surgery.checkpoint.source.TensorSource.sha256` gives it.
        data: What they were taken on.
        padding_weight: What a frame of padding counted (see
            :func:`surgery.calibration.collect.collect`).
        varied: Whether recordings were varied (see :mod:`surgery.calibration.variations`).
        ridge: With which ridge the blocks were cut on trial; ``None`` where they were not.
        output: Which output of the model the trials compared.
        trials: What they showed (see :mod:`surgery.calibration.sensitivity`).
        fitted: Digest of the rows that were fitted to, in order (see
            :func:`surgery.calibration.dealing.fingerprint_in_order`): others are left to price a
            cut on. ``None`` where nobody knows: earlier releases fitted to all of them.
    """

    sites: Mapping[str, Moments]
    source_sha256: Mapping[str, str]
    data: CalibratedOn
    padding_weight: float
    varied: bool = False
    ridge: float | None = None
    output: Output | None = None
    trials: Trials = field(default_factory=dict)
    fitted: str | None = None

    def select(self, sites: Sequence[AttentionSite]) -> dict[str, Moments]:
        """Return the moments of these blocks, which may be fewer than there are.

        Raises:
            UsageError: A block is missing, or has another shape; names it.
        """
        missing = [site.path for site in sites if site.path not in self.sites]
        if missing:
            raise UsageError(
                "The statistics lack an attention block that is to be treated.",
                where=missing[0],
                found=f"{len(self.sites)} blocks, {len(missing)} of {len(sites)} missing",
                hint="calibrate again, for all blocks that are to be treated",
            )
        for site in sites:
            expected = (site.kv_heads, site.head_dim, site.head_dim)
            for name in MOMENTS:
                found = tuple(getattr(self.sites[site.path], name).shape)
                if found != expected:
                    raise UsageError(
                        "The statistics are of an attention block of another shape.",
                        where=f"{site.path}: {name}",
                        found=list(found),
                        expected=list(expected),
                        hint="calibrate again",
                    )
        return {site.path: self.sites[site.path] for site in sites}

    def check_source(self, source_sha256: Mapping[str, str], *, where: object) -> None:
        """Refuse a model that the statistics were not taken of.

        Files of the same content under other names are the same model.

        Args:
            source_sha256: Of the model at hand.
            where: The statistics' name, for messages.

        Raises:
            UsageError: A weight file differs; names it.
        """
        if sorted(source_sha256.values()) == sorted(self.source_sha256.values()):
            return
        for name, digest in source_sha256.items():
            taken = self.source_sha256.get(name)
            if taken == digest:
                continue
            raise UsageError(
                f"The statistics were taken of another model: {name} differs",
                where=where,
                found=f"SHA-256 {digest[:16]}… of {name} in this model",
                expected=f"{taken[:16]}…"
                if taken
                else f"one of the files calibrated on: {', '.join(self.source_sha256)}",
                hint="calibrate this model again with --calibrate, and give --statistics a new "
                "file to save to",
            )
        absent = [name for name in self.source_sha256 if name not in source_sha256]
        raise UsageError(
            f"The statistics were taken of another model: {absent[0]} is not part of this one",
            where=where,
            found=f"{len(source_sha256)} weight files in this model",
            expected=f"{len(self.source_sha256)}",
            hint="calibrate this model again with --calibrate, and give --statistics a new "
            "file to save to",
        )
