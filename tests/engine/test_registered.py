"""A method of somebody else's: registered, it is planned, run, told and merged as ours are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn
from transformers.pytorch_utils import Conv1D
from typer.testing import CliRunner

import surgery
from surgery.choices.cutting import CUTTING, CuttingMethod
from surgery.choices.parts import PARTS
from surgery.choices.small_part import MethodWords, SmallPart
from surgery.errors import CheckpointError, UsageError
from surgery.linalg import product_norm
from surgery.methods import (
    AttentionWeights,
    LinearStart,
    PairDecomposition,
    SiteDecomposition,
    prepare,
)
from surgery.runtime.linears import PartedLinear
from surgery.runtime.parts import FLOAT32_PARTS, LINEAR_METHODS, LinearMethod
from surgery.runtime.registered import register, unregister
from surgery_cli.main import app
from tests.engine.support import config_of, run, save_tiny, tensors_of
from tests.models import model_class
from tests.runtime.naive import relative_error

pytestmark = pytest.mark.usefixtures("no_pictures")


def command(*words: str) -> Any:
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "100"})


def at_random(weights: AttentionWeights, *, qk: bool, vo: bool) -> SiteDecomposition:
    """Let values and outputs go in a random order, each worth what its place says."""
    assert vo and not qk
    left, right = prepare(weights, qk=qk, vo=vo).vo_factors()
    heads, d, _ = left.shape
    generator = torch.Generator().manual_seed(0)
    orders = torch.stack([torch.randperm(d, generator=generator) for _ in range(heads)])
    worth = torch.arange(d, 0, -1, dtype=left.dtype).expand(heads, d).clone()
    part = PairDecomposition(worth, product_norm(left, right), order=orders)
    return SiteDecomposition(qk=None, vo=part)


def test_a_cutting_method_is_run_by_its_name(tmp_path: Path) -> None:
    source, out = save_tiny("llama", tmp_path / "source"), tmp_path / "out"
    asked = ["absorb-decompose", str(source), "--pairs", "vo", "--baseline", "at-random"]
    cut = [*asked, "--remove", "25%", "-o", str(out)]
    refused = command(*cut)
    assert refused.exit_code == 2 and "at-random" in refused.output

    with CUTTING.registered(CuttingMethod("at-random", "a random order", at_random, baseline=True)):
        assert "|at-random" in command("absorb-decompose", "--help").output
        planned = command(*cut, "--dry-run")
        assert planned.exit_code == 0 and not out.exists(), planned.output
        done = command(*cut)
        assert done.exit_code == 0, done.output
        assert config_of(out)["surgery"]["operations"][0]["options"]["baseline"] == "at-random"
        lossless = command(*asked, "--lossless", "-o", str(tmp_path / "lossless"))
        assert lossless.exit_code == 0, lossless.output
        assert surgery.verify(source, tmp_path / "lossless", weights_only=True).worst < 1e-6

    # What was written needs no method any more.
    pruned = surgery.load(out)
    merged = model_class("llama").from_pretrained(surgery.merge(out, tmp_path / "merged"))
    assert relative_error(run(merged), run(pruned)) < 1e-5
    assert relative_error(run(pruned), run(surgery.load(source))) > 1e-3
    same = run(surgery.load(tmp_path / "lossless"))
    assert relative_error(same, run(surgery.load(source))) < 1e-5
    with pytest.raises(UsageError, match="not one of its choices"):
        surgery.Options(baseline="at-random")


@dataclass(frozen=True)
class Gain:
    """``W' = W diag(1 + g)``: a trainable gain on every input."""

    name: ClassVar[str] = "gain"
    usual_targets: ClassVar[tuple[str, ...]] = ("q", "down")
    starts_exact: ClassVar[bool] = True

    def entry(self) -> dict[str, Any]:
        return {}

    def check(self, out_features: int, in_features: int, /) -> str | None:
        return None

    def start(self, weight: Tensor, generator: Generator, /) -> LinearStart:
        return LinearStart(weight=None, parts={"gain_g": torch.zeros(weight.shape[1])})


class GainPart(PartedLinear):
    gain_g: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x * (1 + self.gain_g).to(x.dtype))  # type: ignore[misc]
        return y


class GainLinear(GainPart, nn.Linear):
    pass


class GainConv1D(GainPart, Conv1D):
    pass


RUNTIME = LinearMethod(
    parts=("gain_g",),
    counts=(),
    numbers=(),
    shapes=lambda _, __, into: {"gain_g": (into,)},
    merge=lambda _, weight, parts: weight * (1 + parts["gain_g"]),
)
ENTRY = SmallPart(
    "gain",
    command="reparam",
    help="a gain on every input",
    treatment=Gain,
    title="re-parameterised",
    words=MethodWords(name="Gain", did="Put gains in front of {maps}", prefix="gain_"),
)


@pytest.fixture
def gain() -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(PARTS.registered(ENTRY))
        register("gain", RUNTIME, (GainLinear, GainConv1D))
        stack.callback(unregister, "gain")
        yield


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_small_part_is_run_by_its_name(gain: None, name: str, dtype: str, tmp_path: Path) -> None:
    source, out = save_tiny(name, tmp_path / "source", dtype=dtype), tmp_path / "out"
    targets = ["--targets", "q,k,v,down" if name == "gpt2" else "q,down"]
    for shown in (command("reparam", "--help"), command("tune", "--help")):
        assert "gain" in shown.output and shown.exit_code == 0
    asked = ["reparam", str(source), "--method", "gain", "-o", str(out), *targets]
    assert command(*asked, "--dry-run").exit_code == 0 and not out.exists()
    done = command(*asked)
    assert done.exit_code == 0, done.output
    assert "Put gains in front of" in " ".join(done.output.split())
    assert surgery.verify(source, out, weights_only=True).worst < 1e-6
    assert relative_error(run(surgery.load(out)), run(surgery.load(source))) < 1e-6

    before = tensors_of(source)
    gains = {key: torch.rand(len(part)) for key, part in tensors_of(out).items() if "gain_g" in key}
    assert gains
    file = out / "model.safetensors"
    save_file({**load_file(file), **gains}, file, metadata={"format": "pt"})
    model = surgery.load(out)
    assert all(p.dtype == torch.float32 for n, p in model.named_parameters() if "gain_g" in n)
    plain = tensors_of(surgery.merge(out, tmp_path / "merged"))
    for key, part in gains.items():
        weight = key.replace("gain_g", "weight")
        column = part[:, None] if name == "gpt2" else part
        expected = before[weight].double() * (1 + column.double())
        assert relative_error(plain[weight].double(), expected) < 2.0**-8
    stock = model_class(name).from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert relative_error(run(stock), run(model)) < (1e-5 if dtype == "fp32" else 0.05)
    # Its code is not this package's, so it cannot travel in the checkpoint.
    assert "auto_map" not in config_of(out)


def test_what_is_not_registered_is_not_there(tmp_path: Path) -> None:
    assert "gain" not in PARTS and "gain" not in LINEAR_METHODS and "gain_g" not in FLOAT32_PARTS
    with pytest.raises(UsageError, match="not one of its choices"):
        surgery.reparam(save_tiny("llama", tmp_path / "source"), method="gain")


def test_a_checkpoint_of_an_unknown_method_is_refused(tmp_path: Path) -> None:
    source, out = save_tiny("llama", tmp_path / "source"), tmp_path / "out"
    with PARTS.registered(ENTRY):
        register("gain", RUNTIME, (GainLinear, GainConv1D))
        surgery.reparam(source, out, method="gain")
        unregister("gain")
    with pytest.raises(CheckpointError, match="method"):
        surgery.merge(out, tmp_path / "merged")


def test_a_name_is_given_once(gain: None) -> None:
    with pytest.raises(ValueError, match="registered already"):
        register("gain", RUNTIME, (GainLinear, GainConv1D))
    with pytest.raises(ValueError, match="registered already"):
        PARTS.register(ENTRY)
