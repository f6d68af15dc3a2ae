"""Calibrated cuts from a directory to a smaller one, in every family.

The oracle of a pruned result is the original model itself, run with hooks that do to its heads what
the cut was decided to do; how far rounding alone takes the original is the measure of closeness.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import surgery
from surgery.calibration.cut import SiteCut, cut_heads, kept_product
from surgery.engine.cut import decide as deciding
from surgery.engine.cut import pricing
from surgery.engine.cut.decide import Decision, decide
from surgery.errors import UsageError
from surgery.report.model.report import Report
from tests.calibration.oracle import sites_of
from tests.engine.spoken import TEXT, save_clips, save_listener, save_spoken
from tests.engine.support import (
    DTYPES,
    config_of,
    measured_rounding,
    run,
    tensors_of,
)
from tests.models import CLOSED, ROTARY, TINY, family_of
from tests.runtime.naive import outputs_of, relative_error, sites, tolerance

FAMILIES = [name for name in TINY if not name.endswith(("-unprefixed", "-wide-heads"))]
TURNED = [
    name
    for name in ROTARY
    if name in FAMILIES and name not in CLOSED and family_of(name).attentions[0].unless is None
]
QUARTER = surgery.Remove(0.25)
pytestmark = pytest.mark.usefixtures("no_pictures")


@dataclass(frozen=True)
class Cut:
    """A result, its original, and what was decided."""

    source: Path
    path: Path
    report: Report
    decided: Decision

    def original(self) -> Any:
        return surgery.load(self.source, dtype=torch.float64)

    def pruned(self) -> Any:
        return surgery.load(self.path, dtype=torch.float64)


class Workshop:
    """Cuts models, each with each options once; statistics of each model are taken once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.text = folder / "text.txt"
        self.text.write_text(TEXT)
        self.clips = save_clips(folder / "clips", range(3))
        self.source = cache(self._source)
        self.cut = cache(self._cut)

    def data(self, name: str) -> Path:
        return self.clips if name == "whisper" else self.text

    def calibrate(self, name: str, dtype: str = "fp32") -> surgery.Calibrate:
        statistics = self.folder / f"{name}-{dtype}.statistics"
        data = None if statistics.exists() else str(self.data(name))
        return surgery.Calibrate(data, str(statistics))

    def dry(self, name: str, rule: Any, **options: Any) -> Report:
        """Plan a cut on saved statistics alone: the model is not run."""
        self.cut(name, "fp32")
        chosen = surgery.Options(
            rule=rule, **{"scope": "all", "calibrate": self.calibrate(name)} | options
        )
        return surgery.absorb_decompose(self.source(name, "fp32"), dry_run=True, options=chosen)

    def _source(self, name: str, dtype: str) -> Path:
        path = self.folder / f"{name}-{dtype}"
        if name == "whisper":
            return save_listener(path, dtype=dtype)
        return save_spoken(name, path, dtype=dtype)

    def _cut(self, name: str, dtype: str, rule: Any = QUARTER) -> Cut:
        decided: list[Decision] = []

        def spy(*asked: Any, **options: Any) -> Decision:
            decided.append(decide(*asked, **options))
            return decided[-1]

        source = self.source(name, dtype)
        path = self.folder / f"{name}-{dtype}-{type(rule).__name__}"
        options = surgery.Options(rule=rule, scope="all", calibrate=self.calibrate(name, dtype))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(deciding, "decide", spy)
            report = surgery.absorb_decompose(source, path, options=options)
        return Cut(source, path, report, decided[0])


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pricing, "BUDGETS", (0.25,))  # inspect's tests draw the whole curve
        yield Workshop(tmp_path_factory.mktemp("calibrated"))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_calibrated_cut_computes_what_it_did_on_trial(
    workshop: Workshop, name: str, dtype: str
) -> None:
    cut = workshop.cut(name, dtype)
    original = cut.original()
    products = {
        path: SiteCut(
            None if found.qk is None else kept_product(found.qk, ranks.qk),
            None if found.vo is None else kept_product(found.vo, ranks.vo),
            cut.decided.refitted.get(path),
        )
        for path, found in cut.decided.decompositions.items()
        for ranks in [cut.decided.ranks[path]]
    }
    before = run(original)
    with cut_heads(original, sites_of(original), products):
        tried = run(original)
    found = run(cut.pruned())
    assert relative_error(tried, before) > 5e-4  # something was cut
    assert cut.decided.refitted.keys() <= products.keys()
    rounding = measured_rounding(original, DTYPES[dtype])
    assert relative_error(found, tried) <= 3 * rounding
    attention = cut.report.savings[0]
    assert attention.removed >= 0.25
    told = cut.report.calibration
    assert told is not None and told.measured is not None and told.predicted is not None
    assert min(told.measured, told.predicted) > 0
    for site in cut.report.sites:
        assert (site.qk.untouched is None) == (name not in CLOSED) and site.vo.untouched is None
        assert max([*site.qk.exact_error, *site.vo.exact_error]) <= 1e-10


@pytest.mark.parametrize("name", FAMILIES)
def test_merged_back_it_is_dense_and_computes_the_same(
    workshop: Workshop, name: str, tmp_path: Path
) -> None:
    cut = workshop.cut(name, "fp32")
    merged = surgery.merge(cut.path, tmp_path / "merged")
    shapes = {key: (value.shape, value.dtype) for key, value in tensors_of(cut.source).items()}
    assert {key: (each.shape, each.dtype) for key, each in tensors_of(merged).items()} == shapes
    assert config_of(merged) == config_of(cut.source)
    dense = surgery.load(merged, dtype=torch.float64)
    assert relative_error(run(cut.pruned()), run(dense)) <= tolerance(torch.float64)
    found = surgery.verify(cut.source, cut.path, weights_only=True)
    assert found.changed == [] and found.worst > 1e-2
    # Sums over the same numbers with zeros between them, in another order: some eps of float64.
    worst = surgery.verify(cut.path, merged, weights_only=True).worst
    assert worst <= 16 * torch.finfo(torch.float64).eps


@pytest.mark.parametrize("name", TURNED)
def test_heads_across_rope_lose_frequencies_of_their_own(workshop: Workshop, name: str) -> None:
    cut = workshop.cut(name, "fp32")
    entries = config_of(cut.path)["surgery"]["operations"][0]["sites"]
    before, after = tensors_of(cut.source), tensors_of(cut.path)
    chosen = set()
    for site in sites(cut.original()):
        entry, d = entries[site.path], site.head_dim
        every = [list(range(d // 2))] * site.kv_heads
        pairs = entry.get("rope_pairs", every)
        assert [2 * len(kept) for kept in pairs] == entry["qk_ranks"]
        assert all(kept and kept == sorted({*kept} & {*every[0]}) for kept in pairs)
        chosen |= {tuple(kept) for kept in pairs}
        # Nothing is mixed there: what is stored of keys are rows of the original.
        rows = [d * kv + row for kv, kept in enumerate(pairs) for h in (0, d // 2) for row in
                (h + pair for pair in kept)]  # fmt: skip
        widths = [sum(entry[which]) for which in ("qk_ranks", "qk_ranks", "v_ranks")]
        widths[0] *= site.heads // site.kv_heads
        stored = {name: after[f"{site.path}.{name}.weight"] for name in site.projections[:3]}
        fused = len(stored) == 1
        maps = next(iter(stored.values())).split(widths) if fused else [*stored.values()]
        key = f"{site.path}.{site.projections[1]}.weight"
        assert torch.equal(maps[1], before[key][outputs_of(site, 1)][rows])
        assert [len(each) for each in maps] == widths
    assert len(chosen) > 1
    assert not any("bias of k" in note for note in cut.report.notes)  # it is turned with the key
    cache = next(each for each in cut.report.quantities if "KV cache" in each.title)
    assert cache.after < cache.before


@pytest.mark.parametrize("name", ["llama-biased", "gpt2", "bert", "whisper"])
def test_lossless_is_lossless_with_calibration_too(workshop: Workshop, name: str) -> None:
    cut = workshop.cut(name, "fp32", surgery.Lossless())
    original = cut.original()
    error = relative_error(run(cut.pruned()), run(original))
    assert error <= 3 * measured_rounding(original, torch.float32)
    assert all(saving.removed == 0 for saving in cut.report.savings)
    told = cut.report.calibration
    assert told is not None and told.predicted == 0
    worst = surgery.verify(cut.source, cut.path, weights_only=True).worst
    assert 0 < worst <= 1e-5  # the vectors are others, their products the same


@pytest.mark.parametrize(
    ("name", "of", "scope", "counted"),
    [
        ("llama", "model", "all", ""),
        ("qwen2", "tower", "all", "model.layers."),
        ("gpt2", "tower", "all", "transformer.h."),
        ("whisper", "tower", "encoder", "model.encoder."),
        ("whisper", "tower", "cross", "model.decoder."),
        ("whisper", "model", "encoder", ""),
    ],
)
def test_a_fraction_is_of_what_it_is_said_to_be_of(
    workshop: Workshop, name: str, of: Any, scope: Any, counted: str
) -> None:
    tensors = tensors_of(workshop.source(name, "fp32"))
    whole = sum(each.numel() for key, each in tensors.items() if key.startswith(counted))

    def removed(fraction: float) -> int:
        report = workshop.dry(name, surgery.Remove(fraction, of=of), scope=scope)
        model = next(saving for saving in report.savings if saving.name == "model")
        return model.before - model.stored

    # The dearest step is a frequency of a head: two rows of its key and of two queries.
    step = 2 * 3 * 33 if name in TURNED else 2 * 33
    assert 0.07 * whole <= removed(0.07) < 0.07 * whole + step
    with pytest.raises(UsageError, match="More is to be removed than can be pruned") as caught:
        removed(0.95)
    assert f"of {whole:,} parameters" in str(caught.value.found)
    most = float(str(caught.value.expected).removeprefix("at most ").split("%")[0]) / 100
    assert removed(most - 1e-4) == pytest.approx(most * whole, abs=1e-4 * whole + step)


@pytest.mark.parametrize(
    ("layout", "multiple"),
    [*itertools.product(["ragged", "block", "tied"], [1, 3, 8]), ("model", 1), ("model", 3)],
)
@pytest.mark.parametrize("name", ["llama-wide-heads", "whisper"])
def test_layouts_and_multiples_hold_inside_the_budget(
    workshop: Workshop, name: str, layout: Any, multiple: int
) -> None:
    rotary = name != "whisper"
    report = workshop.dry(name, surgery.Remove(0.25), layout=layout, multiple=multiple)
    removed = report.savings[0].removed
    assert removed >= 0.25
    for site in report.sites:
        steps = 2 * multiple if multiple % 2 else multiple
        for pair, each in ((site.qk, steps if rotary else multiple), (site.vo, multiple)):
            each = steps if rotary and layout == "tied" else each
            assert all(rank % each == 0 or rank == site.head_dim for rank in pair.ranks)
            assert layout == "ragged" or len(set(pair.ranks)) == 1
        assert layout != "tied" or site.qk.ranks == site.vo.ranks
    if layout == "model":
        for pair in ("qk", "vo"):
            every = {(one.head_dim, *getattr(one, pair).ranks) for one in report.sites}
            assert len(every) == len({one.head_dim for one in report.sites})
