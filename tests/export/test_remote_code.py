"""Results carry the code that runs them: with transformers and without this package."""

from __future__ import annotations

import ast
import builtins
import copy
import dis
import importlib.util
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM, dynamic_module_utils
from transformers.models.auto import modeling_auto

import surgery
from surgery.architectures import ARCHITECTURES
from surgery.architectures.base import BASE
from surgery.carried.flatten import flatten
from surgery.carried.remote_code import FILE, place_code, remote_code
from surgery.choices.parts import PARTS
from surgery.errors import SurgeryWarning
from surgery.runtime.families import HOMES
from surgery.runtime.parts import FLOAT32_PARTS, LINEAR_METHODS
from tests.engine.support import config_of, run, save_tiny
from tests.models import TINY, tiny_model
from tests.runtime.naive import write_case

ABSORB = "absorb-decompose"
EMBEDDED = Path(surgery.__file__).parent / "data" / "whisper_micro"

SMALL_PARTS: dict[str, Callable[..., Any]] = {
    name: partial(
        getattr(surgery, PARTS[name].command),
        method=name,
        **{key: n for key, n in (("rank", 3), ("reflections", 4)) if key in PARTS[name].settings},
    )
    for name in LINEAR_METHODS
}
pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(autouse=True)
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Transformers' copies of the code go to the test's folder, and are forgotten with it."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    known = {*sys.modules}
    yield
    for name in {*sys.modules} - known:
        if name.startswith(("transformers_modules", "flattened")):
            del sys.modules[name]


def pruned(name: str, directory: Path) -> Path:
    """A checkpoint of uneven ranks, frequencies too, that carries its code."""
    write_case(name, tiny_model(name), "ragged", directory)
    return carrying(directory)


def carrying(directory: Path, **changes: Any) -> Path:
    config = config_of(directory) | changes
    code = place_code(config)
    assert code is not None
    (directory / FILE).write_text(code)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def flattened(directory: Path) -> Any:
    """The checkpoint's model, by the class in its file."""
    spec = importlib.util.spec_from_file_location("flattened", directory / FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["flattened"] = module
    spec.loader.exec_module(module)
    (name,) = config_of(directory)["architectures"]
    return getattr(module, name).from_pretrained(directory, dtype=torch.float32)


@pytest.mark.parametrize("name", TINY)
def test_pruned_models_compute_the_same_to_the_bit(name: str, tmp_path: Path) -> None:
    directory = pruned(name, tmp_path / name)

    model = flattened(directory)

    assert torch.equal(run(model), run(surgery.load(directory)))


@pytest.mark.parametrize(
    ("method", "name"), list(zip(SMALL_PARTS, list(TINY)[: len(SMALL_PARTS)], strict=True))
)
def test_small_parts_compute_the_same_to_the_bit(method: str, name: str, tmp_path: Path) -> None:
    source = save_tiny(name, tmp_path / "source")
    SMALL_PARTS[method](source, tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    moved = {  # away from the start, where some change nothing
        key: tensor * 1.1 + 0.1 if key.rpartition(".")[2] in FLOAT32_PARTS else tensor
        for key, tensor in load_file(file).items()
    }
    save_file(moved, file, metadata={"format": "pt"})

    model = flattened(tmp_path / "out")

    assert torch.equal(run(model), run(surgery.load(tmp_path / "out")))
    assert not torch.equal(run(model), run(surgery.load(source)))


# What is in the file ------------------------------------------------------------------------


def config(family: str, *methods: str) -> dict[str, Any]:
    operations = [{"method": method, "sites": {}} for method in methods]
    return {
        "model_type": family,
        "architectures": [ARCHITECTURES[family].classes[0].name],
        "surgery": {"format_version": 1, "operations": operations},
    }


def source(family: str, *methods: str) -> str:
    code = remote_code(config(family, *methods))
    assert code is not None
    return code.source


IMPLIED = ("__name__", "__module__", "__qualname__", "__annotations__")


def globals_of(code: CodeType) -> set[str]:
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    here = {
        i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    return here.union(*map(globals_of, inner))


@pytest.mark.parametrize(
    ("family", "methods"),
    [
        *((family, (ABSORB,)) for family in ("bert", "gpt2", "llama", "whisper")),
        *(("llama", (method,)) for method in LINEAR_METHODS),
        *((family, (ABSORB, *LINEAR_METHODS)) for family in ("bert", "gpt2", "whisper")),
    ],
)
def test_the_file_stands_alone(family: str, methods: tuple[str, ...], tmp_path: Path) -> None:
    text = source(family, *methods)
    tree = ast.parse(text)
    bound: list[str] = []
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            bound.append(node.name)
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            if isinstance(target, ast.Name):
                bound.append(target.id)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            bound += [alias.asname or alias.name for alias in node.names]
            roots = {alias.name for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0
                roots = {str(node.module)}
            roots = {root.partition(".")[0] for root in roots}
            assert roots <= {"torch", "transformers", *sys.stdlib_module_names}

    assert len(bound) == len(set(bound))
    names = globals_of(compile(text, FILE, "exec"))
    assert names <= {*bound, *dir(builtins), *IMPLIED}
    (tmp_path / FILE).write_text(text)  # it is searched as text, docstrings and all
    assert dynamic_module_utils.get_relative_imports(tmp_path / FILE) == []
    assert text.startswith('"""') and "SPDX-License-Identifier: Apache-2.0" in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_file_holds_what_is_needed_and_no_more() -> None:
    cut, turned = source("llama", ABSORB), source("whisper", "hra")
    both = source("gpt2", ABSORB, "qgoft")

    assert "class RotaryHeads" in cut
    for absent in ("Whisper", "Bert", "GPT2", "def reflect", "def mix", "class Sorsa", "def load"):
        assert absent not in cut
    assert "def reflect(" in turned and "class HraLinear" in turned
    for absent in (
        "RestructuredWhisperAttention",
        "RestructuredAttention",
        "class Goft",
        "def mix",
    ):
        assert absent not in turned
    assert "RestructuredGPT2Attention" in both and "class QgoftConv1D" in both
    assert "class GoftLinear" not in both


def test_the_same_version_writes_the_same_bytes() -> None:
    first = source("whisper", ABSORB, "sorsa", "goft")
    flatten.cache_clear()
    assert source("whisper", ABSORB, "sorsa", "goft") == first


def test_auto_classes_are_those_that_transformers_lists() -> None:
    assert ARCHITECTURES.keys() == HOMES.keys()
    for family, one in ARCHITECTURES.items():
        for known in one.classes:
            for auto in known.autos:
                listed = getattr(modeling_auto, auto)._model_mapping._model_mapping[family]
                assert known.name in ([listed] if isinstance(listed, str) else listed)
        assert [known.name for known in one.classes if BASE in known.autos] == [
            modeling_auto.MODEL_MAPPING_NAMES[family]
        ]
        assert hasattr(modeling_auto, one.auto_class)


def test_only_names_that_are_known_get_into_the_file() -> None:
    hostile = config("llama", ABSORB) | {"architectures": ["X\nimport os", "LlamaModel", 7]}
    code = remote_code(hostile)
    assert code is not None
    assert code.auto_map == {"AutoModel": "modeling_surgery.LlamaModel"}
    assert "import os" not in code.source


def test_nothing_is_carried_where_nothing_runs_it() -> None:
    foreign = {"auto_map": {"AutoModel": "modeling_other.Other"}}
    for changes in ({"surgery": None}, {"model_type": "owl"}):
        dense = config("llama", ABSORB) | foreign | changes
        assert place_code(dense) is None
        assert "auto_map" not in dense


# By transformers ----------------------------------------------------------------------------


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return pruned("llama", tmp_path / "llama")


def remote(directory: Path, auto: Any = AutoModelForCausalLM, **options: Any) -> Any:
    return auto.from_pretrained(directory, trust_remote_code=True, **options)


def test_transformers_runs_copies_and_saves_it(llama: Path, tmp_path: Path) -> None:
    model = remote(llama)
    expected = run(surgery.load(llama))
    assert type(model).__module__.startswith("transformers_modules.")
    assert isinstance(model, transformers.LlamaForCausalLM)
    assert torch.equal(run(model), expected)
    assert isinstance(remote(llama, AutoModel), transformers.LlamaModel)
    for same in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(same) is type(model)
        assert torch.equal(run(same), expected)

    start = torch.tensor([[1, 7, 9]])
    written = model.generate(start, max_new_tokens=6, do_sample=False)
    assert torch.equal(
        written, surgery.load(llama).generate(start, max_new_tokens=6, do_sample=False)
    )

    model.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / FILE).read_bytes() == (llama / FILE).read_bytes()
    assert config_of(tmp_path / "saved")["auto_map"] == config_of(llama)["auto_map"]
    assert torch.equal(run(remote(tmp_path / "saved")), expected)
    assert torch.equal(run(surgery.load(tmp_path / "saved")), expected)

    half = model.to(torch.bfloat16)
    assert half.model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.equal(run(half), run(surgery.load(llama).to(torch.bfloat16)))


def test_what_surgery_loads_and_saves_points_to_no_code(llama: Path, tmp_path: Path) -> None:
    surgery.load(llama).save_pretrained(tmp_path / "saved")

    assert not (tmp_path / "saved" / FILE).exists()
    assert "auto_map" not in config_of(tmp_path / "saved")
    assert torch.equal(run(surgery.load(tmp_path / "saved")), run(surgery.load(llama)))


def test_the_code_runs_where_it_is_trusted_and_never_in_surgery(llama: Path) -> None:
    (llama / FILE).write_text("raise SystemExit('the code of the checkpoint ran')\n")

    with pytest.warns(SurgeryWarning, match="surgery refresh"):  # older than any that is known
        assert isinstance(surgery.load(llama), transformers.LlamaForCausalLM)
    with pytest.raises(RuntimeError, match="size"):
        AutoModelForCausalLM.from_pretrained(llama)
    with pytest.raises(SystemExit, match="ran"):
        remote(llama)


def test_a_block_that_cannot_be_run_is_refused_as_surgery_does(llama: Path) -> None:
    config = config_of(llama)
    sites = config["surgery"]["operations"][0]["sites"]
    sites["model.layers.0.self_attn"]["qk_ranks"] = [0, 3]
    (llama / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="between 1 and the head dimension"):
        remote(llama)


def test_a_family_that_is_left_out_is_refused_in_words(llama: Path) -> None:
    flattened(llama)
    module = sys.modules["flattened"]

    with pytest.raises(module.LoadError, match="needs no gpt2"):
        module.family_swap("gpt2")


def test_results_and_what_is_partly_merged_carry_it_and_dense_ones_do_not(tmp_path: Path) -> None:
    source = save_tiny("bert", tmp_path / "source")
    config = config_of(source) | {"auto_map": {"AutoModel": "modeling_other.Other"}}
    (source / "config.json").write_text(json.dumps(config))
    surgery.absorb_decompose(source, tmp_path / "small")
    surgery.reparam(tmp_path / "small", tmp_path / "both", method="hra", reflections=2)
    partly = surgery.merge(tmp_path / "both", tmp_path / "partly", steps=1)
    dense = surgery.merge(tmp_path / "both", tmp_path / "dense")

    names = {"AutoModel": "BertModel", "AutoModelForTextEncoding": "BertModel"}
    names |= {"AutoModelForMaskedLM": "BertForMaskedLM"}
    for directory in (tmp_path / "small", tmp_path / "both", partly):
        expected = {auto: f"modeling_surgery.{name}" for auto, name in names.items()}
        assert config_of(directory)["auto_map"] == expected
        assert (directory / FILE).read_text() == source_of(directory)
        assert "trust_remote_code=True" in (directory / "README.md").read_text()
    assert (tmp_path / "small" / FILE).read_bytes() == (partly / FILE).read_bytes()
    assert not (dense / FILE).exists()
    assert "auto_map" not in config_of(dense)


def source_of(directory: Path) -> str:
    code = remote_code(config_of(directory))
    assert code is not None
    return code.source


# Where surgery is not installed -------------------------------------------------------------

ALONE = """
import json, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("surgery", "surgery_cli"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
try:
    import surgery
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("surgery can be imported")

import soundfile, transformers
transformers.logging.set_verbosity_error()
whisper, clip, llama = sys.argv[1:]
model = transformers.AutoModelForSpeechSeq2Seq.from_pretrained(whisper, trust_remote_code=True)
hear = transformers.pipeline("automatic-speech-recognition", whisper, trust_remote_code=True)
sound, rate = soundfile.read(clip, dtype="float32")
write = transformers.pipeline("text-generation", llama, trust_remote_code=True)
print(json.dumps([
    sum(p.numel() for p in model.parameters()),
    hear({"raw": sound, "sampling_rate": rate})["text"],
    write("w5 w6 w7", max_new_tokens=8, do_sample=False, return_tensors=True)[0],
]))
"""


def test_it_runs_without_this_package(tmp_path: Path) -> None:
    micro = tmp_path / "micro"
    micro.mkdir()
    for file in EMBEDDED.iterdir():
        if file.is_file():
            (micro / file.name).write_bytes(file.read_bytes())
    surgery.absorb_decompose(micro, tmp_path / "whisper")
    llama = pruned("llama", tmp_path / "llama")
    words(llama)
    clip = EMBEDDED / "test" / "dialled-00.flac"

    done = subprocess.run(
        [sys.executable, "-c", ALONE, tmp_path / "whisper", clip, llama],
        capture_output=True,
        text=True,
        check=False,
        env={"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )

    assert done.returncode == 0, done.stderr
    count, heard, written = json.loads(done.stdout.splitlines()[-1])
    assert count == sum(p.numel() for p in surgery.load(tmp_path / "whisper").parameters())
    transcript = (EMBEDDED / "test" / "transcripts.tsv").read_text().splitlines()[0]
    assert heard.strip() == transcript.partition("\t")[2]
    tokens = surgery.load(llama).generate(
        torch.tensor([[5, 6, 7]]), max_new_tokens=8, do_sample=False
    )
    assert written == {"generated_token_ids": tokens[0].tolist()}


def words(directory: Path) -> None:
    """A tokenizer of one word a number."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, 48)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(directory)
