"""What a certificate must catch: an artefact spoiled after it was written, in every way that a merge has been known to go wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora.layer import Linear
from safetensors.torch import load_file, save_file

from lora_studio.core.errors import StudioError
from lora_studio.export import readable_names, task
from lora_studio.export.merge.merge_plan import MergePlan
from lora_studio.export.verify import reference
from tests.export.adapters import make_adapter, run_export, targets_of
from tests.tiny import ARCHITECTURES, save_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")
Spoil = Callable[[Path, Path], None]
QUERY = {"llama": "model.layers.0.self_attn.q_proj.weight", "gpt2": "transformer.h.0.attn.c_proj.weight"}


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def unmerged(folder: Path, base: Path) -> None:
    """The base's own weights, as if nothing had been merged."""
    dtype = next(iter(load_file(folder / "model.safetensors").values())).dtype
    change_weights(
        folder, lambda tensors: tensors.update({name: tensor.to(dtype) for name, tensor in load_file(base / "model.safetensors").items()})
    )


def wrong_scale(folder: Path, base: Path) -> None:
    """One module's update, a tenth too large."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        name = next(name for name in QUERY.values() if name in tensors)
        own = load_file(base / "model.safetensors")[name]
        tensors[name] = (own + 1.1 * (tensors[name].float() - own)).to(tensors[name].dtype)

    change_weights(folder, change)


def transposed(folder: Path, base: Path) -> None:
    """The update of a Conv1D the wrong way round: its module is square, so nothing else tells."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        name = QUERY["gpt2"]
        own = load_file(base / "model.safetensors")[name]
        tensors[name] = (own + (tensors[name].float() - own).T).to(tensors[name].dtype)

    change_weights(folder, change)


def tied_again(folder: Path, _base: Path) -> None:
    """A head that was trained apart from its embedding, tied to it by the config."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))


def other_template(folder: Path, _base: Path) -> None:
    """Another chat template."""
    settings = folder / "chat_template.jinja"
    settings.write_text(settings.read_text().replace("<|im_end|>", ""))


def other_end(folder: Path, _base: Path) -> None:
    """Another end token."""
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": "</s>"}))
    (folder / "generation_config.json").unlink()


def one_bit(folder: Path, _base: Path) -> None:
    """A flipped bit in a tensor that the adapter does not touch."""
    path = folder / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)


def one_element(folder: Path, _base: Path) -> None:
    """One element of one tensor, a hundredth too large."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        element = tensors[QUERY["llama"]][3]
        element[int(element.abs().argmax())] *= 1.01

    change_weights(folder, change)


CASES: list[tuple[str, Spoil, dict[str, Any]]] = [
    ("llama", unmerged, {}),
    ("llama", wrong_scale, {}),
    ("gpt2", transposed, {}),
    ("llama", other_template, {}),
    ("llama", other_end, {}),
    ("qwen3", tied_again, {"modules_to_save": ["lm_head"]}),
    ("llama", one_bit, {}),
    ("llama", one_element, {}),
]


@pytest.mark.parametrize("check", ["auto", "tensors"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("architecture", "spoil", "settings"), CASES, ids=[spoil.__name__ for _, spoil, _ in CASES])
def test_a_spoiled_merge_fails_and_is_kept_under_a_name_that_says_so(
    architecture: str,
    spoil: Spoil,
    settings: dict[str, Any],
    dtype: str,
    check: str,
    tiny_model: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base, sound = tiny_model(architecture), task.copy_tokenizer_files
    adapter = make_adapter(base, tmp_path / "adapter", **targets_of(architecture), **settings)

    def spoiled(base: Path, adapter: Path, folder: Path, tokenizer_files: Any) -> None:
        sound(base, adapter, folder, tokenizer_files)
        spoil(folder, base)

    monkeypatch.setattr(task, "copy_tokenizer_files", spoiled)
    target = tmp_path / "exports/merged"
    with pytest.raises(StudioError, match=r"did not pass: .*merged-failed") as error:
        run_export(source=str(adapter), kind="merged", to=str(target), dtype=dtype, check=check)
    assert error.value.exit_status == 1
    assert [path.name for path in target.parent.iterdir()] == ["merged-failed"]
    told = json.loads((target.parent / "merged-failed/certificate.json").read_text())
    assert (told["verdict"], told["passed"], told["grade"]) == ("failed", False, "logits" if check == "auto" else "tensors")
    assert told["reason"] in error.value.message


def loud_model(folder: Path) -> Path:
    """A model whose logits are in the thousands, so that float32's noise alone is more than 1e-4, as a deep model's is."""
    base = save_tiny_model(folder, "llama")

    def louder(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] *= 2000

    change_weights(base, louder)
    return base


def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no model fit into memory in float64."""
    fits = reference.fits_memory
    monkeypatch.setattr(reference, "fits_memory", lambda base, bytes_each=4: bytes_each == 4 and fits(base, 4))


def unread(_plan: MergePlan, _base: Path, _written: Path, _report: Any) -> Iterator[int]:
    """In place of the tensors' check, so that the logits' stands alone."""
    yield 0


@pytest.mark.parametrize("computed_in", ["float64", "float32"])
def test_a_right_merge_passes_where_noise_alone_is_more_than_a_fixed_limit(
    computed_in: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = loud_model(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter", **targets_of("llama"))
    if computed_in == "float32":
        in_float32(monkeypatch)
    told = run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"), dtype="float32")["certificate"]
    assert (told["verdict"], told["computed_in"]) == ("exact", computed_in)
    assert told["max_abs_logit_difference"] > 1e-4  # the rounding of weights to float32; a limit of 1e-4 failed it
    assert told["exact_logit_difference"] <= 1e-6
    assert (told["logit_noise"] > 1e-4) is (computed_in == "float32")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_family_computes_in_float64_throughout(architecture: str, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    """Norms, rotations, softmax and routers that ask for float32 too: else a norm's rounding would be the noise."""
    adapter = make_adapter(tiny_model(architecture), tmp_path / "adapter", **targets_of(architecture))
    told = run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"), dtype="float32")["certificate"]
    assert (told["verdict"], told["computed_in"]) == ("exact", "float64")
    assert 0 < told["logit_noise"] < 1e-13
    assert 1e-9 < told["max_abs_logit_difference"] < 1e-5


SHAPES: dict[str, dict[str, int]] = {
    "tiny": {},
    "larger": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 6},
    "deep": {"num_hidden_layers": 30},  # as deep as the starter
}


PLANTED: list[tuple[Spoil, str, str]] = [
    (wrong_scale, "bfloat16", "float64"),
    (wrong_scale, "float32", "float64"),
    (one_element, "bfloat16", "float64"),
    (one_element, "float32", "float64"),
    (wrong_scale, "bfloat16", "float32"),
    (wrong_scale, "float32", "float32"),
    (one_element, "float32", "float32"),
    (one_element, "float16", "float64"),
]
SIZED = [(size, *planted) for size in ("tiny", "larger", "loud") for planted in PLANTED]
DEEP = [("deep", one_element, "float16", "float64"), ("deep", one_element, "float32", "float32")]


@pytest.mark.parametrize(("size", "spoil", "dtype", "computed_in"), [*SIZED, *DEEP])
def test_logits_alone_tell_a_wrong_merge_too(
    size: str, spoil: Spoil, dtype: str, computed_in: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two checks do not lean on each other: with the tensors' left out, the logits' catches what was spoiled."""
    base = loud_model(tmp_path / "base") if size == "loud" else save_tiny_model(tmp_path / "base", "llama", **SHAPES[size])
    sound = task.copy_tokenizer_files
    adapter = make_adapter(base, tmp_path / "adapter", **targets_of("llama"))
    monkeypatch.setattr(task, "check_tensors", unread)
    monkeypatch.setattr(task, "copy_tokenizer_files", lambda *given: (sound(*given), spoil(given[2], base)))
    if computed_in == "float32":
        in_float32(monkeypatch)
    with pytest.raises(StudioError, match=rf"its logits differ by .* from base .* in {computed_in}"):
        run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"), dtype=dtype)


def test_a_merge_of_pefts_that_is_another_function_than_its_adapter_fails(
    tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written is then just as PEFT merges it, and wrong all the same."""
    adapter = make_adapter(tiny_model("llama"), tmp_path / "adapter", **targets_of("llama"))
    sound = Linear.get_delta_weight
    monkeypatch.setattr(Linear, "get_delta_weight", lambda layer, name: 1.001 * sound(layer, name))
    monkeypatch.setattr(task, "check_tensors", unread)
    with pytest.raises(StudioError, match="PEFT's merge is another function than base"):
        run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"), dtype="bfloat16")


def test_an_adapter_that_was_not_copied_whole_fails(
    tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, sound = tiny_model("llama"), readable_names.shutil.copyfile
    adapter = make_adapter(base, tmp_path / "adapter", **targets_of("llama"))

    def other(source: Path, target: Path) -> None:
        sound(source, target)
        if target.name == "adapter_model.safetensors":
            tensors = load_file(target)
            save_file({name: tensor * 1.01 for name, tensor in tensors.items()}, target, metadata={"format": "pt"})

    monkeypatch.setattr(readable_names.shutil, "copyfile", other)
    with pytest.raises(StudioError, match="did not pass"):
        run_export(source=str(adapter), kind="adapter", to=str(tmp_path / "exports/adapter"))


def test_a_certificate_says_what_was_compared_and_names_every_file(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    adapter = make_adapter(tiny_model("llama"), tmp_path / "adapter", **targets_of("llama"))
    run_export(source=str(adapter), kind="merged", to=str(tmp_path / "merged"), dtype="bfloat16")
    told = json.loads((tmp_path / "merged/certificate.json").read_text())
    assert (told["verdict"], told["grade"], told["dtype"]) == ("rounded", "logits", "bfloat16")
    assert told["loaded_by"].startswith("transformers ")
    assert told["exact_logit_difference"] <= 1e-10 < 1e-4 < told["max_abs_logit_difference"]
    assert 0 < told["update_lost"] < 1
    assert 0 < told["effect_lost"] < 1
    assert 0 < told["kl_divergence"] < 1
    files = {path.name for path in (tmp_path / "merged").iterdir()} - {"certificate.json", "certificate.html"}
    assert told["files"] == {name: sha256((tmp_path / "merged" / name).read_bytes()).hexdigest() for name in files}
    page = (tmp_path / "merged/certificate.html").read_text()
    assert "Every tensor is the correct rounding of the exact sum." in page
    assert told["files"]["model.safetensors"] in page


def test_float32_is_offered_where_rounding_costs_too_much(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    base = tiny_model("llama")
    small = make_adapter(base, tmp_path / "small", **targets_of("llama"), lora_alpha=0.02)
    told = run_export(source=str(small), kind="merged", to=str(tmp_path / "small_merged"), dtype="bfloat16")
    assert told["certificate"]["effect_lost"] > 0.05
    assert told["certificate"]["offers_float32"]
    assert "Written in float32 nothing is lost" in (tmp_path / "small_merged/certificate.html").read_text()
    large = make_adapter(base, tmp_path / "large", **targets_of("llama"), lora_alpha=64)
    told = run_export(source=str(large), kind="merged", to=str(tmp_path / "large_merged"), dtype="bfloat16")
    assert not told["certificate"]["offers_float32"]
