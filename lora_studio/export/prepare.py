"""Whether an adapter can become what is asked for, settled before anything is written."""

from __future__ import annotations

from pathlib import Path

from lora_studio.core.errors import InputError
from lora_studio.export.context import ExportContext
from lora_studio.export.export_format import ExportFormat
from lora_studio.export.gguf.adapter import refuse_beyond_gguf
from lora_studio.export.gguf.fit import OTHER_VOCABULARY
from lora_studio.export.gguf.model import check_outtype, refuse_model_beyond_gguf
from lora_studio.export.merge.changes import Changes
from lora_studio.export.merge.into import Original
from lora_studio.export.merge.merge_plan import BaseQuantization, MergePlan
from lora_studio.export.merge.original import full_precision_here, weights_apart
from lora_studio.export.mlx.adapter import refuse_beyond_mlx
from lora_studio.export.readable_names import refuse_unread
from lora_studio.export.redact import public_name
from lora_studio.export.source import AdapterSource
from lora_studio.export.verify.tokenizer_files import tokenizer_files_of


def prepare(
    source: AdapterSource,
    base: Path,
    kind: ExportFormat,
    dtype: str | None,
    outtype: str,
    into: str,
    *,
    run: bool,
    original: Original | None = None,
) -> ExportContext:
    """Settle what one export works with.

    Raises:
        InputError: The adapter does not fit the base, or cannot become what is asked for.
    """
    trained_base, base = base, original.folder if original else base
    apart = weights_apart(trained_base, base) if original else None
    made_from = full_precision_here(source.base_name, base) if source.stored and not original else None
    name = public_name(original.name if original else source.base_name)
    changes = Changes.of(base, source.adapter)
    if kind == "gguf":
        check_outtype(outtype)
        refuse_model_beyond_gguf(base)
        dtype = "bfloat16" if outtype == "bf16" else "float32"
    elif kind in ("gguf-adapter", "mlx-adapter"):
        refuse = refuse_beyond_gguf if kind == "gguf-adapter" else refuse_beyond_mlx
        refuse(changes.adapter, base, changes.tree)
        if changes.resized:
            raise InputError(OTHER_VOCABULARY, "Export the merged model.", "kind")
    elif kind == "adapter":
        refuse_unread(changes)
    held = BaseQuantization(source.base_quantization, source.config.model.dtype) if into == "dequantized" and source.config else None
    plan = MergePlan.of(base, changes, dtype, held) if kind in ("merged", "gguf") else None
    return ExportContext(
        source, base, changes, plan, tokenizer_files_of(base, source.adapter, source.config), run, trained_base, name, apart, made_from
    )
