"""Turn a GGUF file into an ordinary model folder, once: safetensors, config, tokenizer, chat template.

Unpacking adds no precision: quantized weights are kept as bfloat16 (half the size of float32, and its rounding is far below
the quantization's), float ones as they were.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lora_studio.core.control import TaskContext
from lora_studio.core.errors import Cancelled, InputError
from lora_studio.core.events import Phase, RunEvent
from lora_studio.core.files import whole_folder
from lora_studio.core.locks import lock_file, unlock_file
from lora_studio.core.settings import STARTER_MODEL
from lora_studio.models.check import FIELD
from lora_studio.models.converted import ConvertedFrom, converted_folder, converted_root, earlier_folder
from lora_studio.models.errors import IncompleteModelError
from lora_studio.models.facts import gguf_dtype
from lora_studio.models.gguf_header import GgufHeader, read_gguf
from lora_studio.models.gguf_tokenizer import gguf_tokenizer
from lora_studio.models.spellings import mend_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_STARTER_LICENCE = "apache-2.0"
_WAIT_SECONDS = 0.2
_PROGRESS_SECONDS = 0.1
_NO_WEIGHTS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


def convert_gguf(file: Path, name: str, context: TaskContext) -> Generator[RunEvent, None, Path]:
    """Convert a GGUF file into the cache unless that was done before, and return the folder.

    Args:
        file: The GGUF file.
        name: What the studio calls the model.
        context: Its control cancels between tensors.

    Raises:
        InputError: The file is damaged, or transformers does not know its family or its types.
        Cancelled: A person asked to stop; nothing is left behind.
    """
    target = converted_folder(file)
    if target.is_dir():
        mend_folder(target)  # releases before wrote transformers 5's names alone
        return target
    converted_root().mkdir(parents=True, exist_ok=True)
    lock = yield from _take_lock(converted_root() / f".{target.name}.lock", context)
    try:
        if target.is_dir():
            return target  # another process has made it while this one waited
        earlier = earlier_folder(file)
        if earlier.is_dir():
            yield from _take_over(earlier, file, context)
            earlier.rename(target)
        else:
            with whole_folder(target) as folder:
                yield from _convert_into(folder, file, name, context)
    finally:
        unlock_file(lock)
    return target


def _take_lock(path: Path, context: TaskContext) -> Generator[RunEvent, None, IO[bytes]]:
    handle = lock_file(path)
    if handle is None:
        yield Phase(name="converting", message="Waiting for another program that is converting this model")
    while handle is None:
        context.control.check()
        time.sleep(_WAIT_SECONDS)
        handle = lock_file(path)
    return handle


def _take_over(earlier: Path, file: Path, context: TaskContext) -> Iterator[RunEvent]:
    """Bring a copy that an earlier release made up to date: its weights stay, byte for byte."""
    header = read_gguf(file)
    yield Phase(name="converting", message=f"Reading the tokenizer of {file.name} anew")
    context.control.check()
    with _foreseen_errors(file, header), tempfile.TemporaryDirectory(dir=converted_root(), prefix=".") as made:
        gguf_tokenizer(file, header).save_pretrained(made)
        for name in sorted(path.name for path in Path(made).iterdir()):
            (Path(made) / name).replace(earlier / name)
    mend_folder(earlier)


def _convert_into(folder: Path, file: Path, name: str, context: TaskContext) -> Iterator[RunEvent]:
    header = read_gguf(file)
    total = len(header.tensors)
    yield Phase(name="converting", message=f"Reading {file.name}", done=0, total=total, unit="tensors")
    with _foreseen_errors(file, header):
        config = _read_config(file, header)
        model = yield from _read_model(file, header, config, context)
    yield Phase(name="converting", message="Reading the tokenizer", done=total, total=total, unit="tensors")
    context.control.check()
    with _foreseen_errors(file, header):
        gguf_tokenizer(file, header).save_pretrained(folder)
    yield Phase(name="converting", message="Writing safetensors", done=total, total=total, unit="tensors")
    context.control.check()
    model.save_pretrained(folder)
    mend_folder(folder)
    licence = str(header.settings.get("general.license", "")) or (_STARTER_LICENCE if name == STARTER_MODEL else "")
    ConvertedFrom(str(file), name, licence, gguf_dtype(header)).write(folder)


def _read_config(file: Path, header: GgufHeader) -> Any:
    """Read the file's settings as a transformers config."""
    import torch
    from transformers import AutoConfig

    config = _llama_config(header)
    if config is None:
        config = AutoConfig.from_pretrained(str(file.parent), gguf_file=file.name, local_files_only=True)
        vars(config).pop("_model_name_or_path", None)
        _mend_config(config, header)
    config.dtype = {"F32": torch.float32, "F16": torch.float16}.get(gguf_dtype(header), torch.bfloat16)
    return config


def _mend_config(config: Any, header: GgufHeader) -> None:
    """Put in what the file says and transformers' reader leaves at the family's default."""
    if header.architecture == "gpt2" and header.number("context_length"):
        config.n_positions = header.number("context_length")
    if header.number("attention.key_length") and hasattr(config, "head_dim"):
        config.head_dim = header.number("attention.key_length")


def _llama_config(header: GgufHeader) -> Any:
    """Return the config of a plain llama file from its header alone, None for others.

    transformers' reader walks through the whole vocabulary for it, which takes longer than the rest of the conversion.
    """
    from transformers import AutoConfig
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    if header.architecture != "llama" or "mistral" in str(header.settings.get("general.name", "")).lower():
        return None
    names: Mapping[str, str | None] = GGUF_CONFIG_MAPPING["llama"]
    scalars = {key.removeprefix("llama."): value for key, value in header.settings.items() if key.startswith("llama.")}
    fields: dict[str, Any] = {name: scalars[key] for key, name in names.items() if name and key in scalars}
    if any(key.startswith(("rope.scaling", "expert")) for key in scalars):
        return None
    for name, key in (("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding"), ("unk_token_id", "unknown")):
        if f"tokenizer.ggml.{key}_token_id" in header.settings:
            fields[name] = header.settings[f"tokenizer.ggml.{key}_token_id"]
    fields["tie_word_embeddings"] = all(tensor.name != "output.weight" for tensor in header.tensors)
    fields.setdefault("vocab_size", header.array_lengths.get("tokenizer.ggml.tokens", 0))
    return AutoConfig.for_model("llama", **fields)


def _read_model(file: Path, header: GgufHeader, config: Any, context: TaskContext) -> Generator[RunEvent, None, PreTrainedModel]:
    """Unpack the file's tensors one by one into a model; llama.cpp's renaming and permutation are undone by transformers.

    Written apart from `from_pretrained(gguf_file=…)`, which reads the header twice more, says nothing meanwhile, cannot be
    cancelled, and leaves marks of quantization that `save_pretrained` refuses.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

    from lora_studio.models.gguf_tensors import map_tensor, unpack

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    processor: Any = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)(config=config.to_dict())
    names = _names_of(model, processor, header)
    state: dict[str, Any] = {}
    told = time.monotonic()
    for number, tensor in enumerate(header.tensors):
        context.control.check()
        if time.monotonic() - told > _PROGRESS_SECONDS:
            told = time.monotonic()
            yield Phase(name="converting", message=f"Unpacking {file.name}", done=number, total=len(header.tensors), unit="tensors")
        parsed = {"tensors": state, "config": config.to_dict()}
        made = processor.process(
            weights=unpack(map_tensor(file, header, tensor), tensor.dtype),
            name=tensor.name,
            tensor_key_mapping=names,
            parsed_parameters=parsed,
        )
        if made.name in names:
            state[names[made.name]] = torch.from_numpy(made.weights.copy()).to(config.dtype)
    _fill(model, {name: value.to(config.dtype) for name, value in state.items()}, file)
    return model


def _names_of(model: PreTrainedModel, processor: Any, header: GgufHeader) -> dict[str, str]:
    """Map llama.cpp's tensor names to the model's.

    transformers' own map asks every submodule in turn, which takes seconds and only Bloom-like files need; the model as a
    whole is asked first.
    """
    from transformers.modeling_gguf_pytorch_utils import get_gguf_hf_weights_map

    class Whole:
        config = model.config

        def state_dict(self) -> dict[str, Any]:
            return model.state_dict()

        def named_children(self) -> tuple[()]:
            return ()

    names: dict[str, str] = get_gguf_hf_weights_map(Whole(), processor)
    if all(tensor.name in names or tensor.name in _NO_WEIGHTS for tensor in header.tensors):
        return names
    return get_gguf_hf_weights_map(model, processor)


def _fill(model: PreTrainedModel, state: dict[str, Any], file: Path) -> None:
    """Put the tensors into the model, and refuse a file that leaves some of its weights open."""
    missing, _unexpected = model.load_state_dict(state, assign=True, strict=False)
    model.tie_weights()
    head = model.get_output_embeddings()
    open_weights = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if open_weights or (head is not None and head.weight.is_meta):
        message = f"{file} lacks {len(open_weights)} weights of its family, first {(open_weights or missing)[0]}."
        raise IncompleteModelError(message, "Download or copy the file again.", FIELD)


@contextlib.contextmanager
def _foreseen_errors(file: Path, header: GgufHeader) -> Generator[None]:
    """Say in one message what transformers, gguf and tokenizers say in many ways."""
    try:
        yield
    except (Cancelled, InputError, MemoryError):
        raise
    except Exception as error:
        if "not supported" in str(error) or "does not recognize" in str(error):
            message = f"{file} is of the family {header.architecture}, which transformers does not read from GGUF."
            raise InputError(message, "Choose the model's safetensors version instead.", FIELD) from error
        first_line = " ".join(str(error).split())[:300]
        raise InputError(f"{file} cannot be converted: {first_line}", "Choose the model's safetensors version instead.", FIELD) from error
