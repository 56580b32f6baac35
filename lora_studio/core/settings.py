"""The sections of a `RunConfig`, field by field.

A field's constraints give its editor's range, its description the tooltip. Names are PEFT's and transformers' own.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lora_studio.core.setting_types import AlphaPattern, ColumnNames, Names, RankPattern, Section, TemplateVariables

STARTER_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
HUB_SCHEME = "hf://"
"""How the name of a Hub data set starts among files of rows."""


class ModelSettings(Section):
    """The base model, which stays frozen."""

    name_or_path: str = Field(
        default=STARTER_MODEL,
        min_length=1,
        title="Base model",
        description="A folder, a GGUF file or a Hub id such as HuggingFaceTB/SmolLM2-135M-Instruct.",
    )
    revision: str | None = Field(
        default=None, title="Revision", description="A branch, tag or commit of a Hub model; empty for its main branch."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        title="Weights",
        description="How the base model's weights are stored while training. auto keeps the dtype of the files, or takes "
        "bfloat16 where the device is quick with it. float32 takes twice the memory of the others.",
    )
    quantization: Literal["none", "nf4", "int8"] = Field(
        default="none",
        title="Quantization",
        description="Holds the weights of the linear layers in fewer bits: nf4 in 4 (QLoRA's NormalFloat), a quarter of bfloat16's memory; "
        "int8 in 8. Embeddings, norms and the output layer keep their dtype. Slower; needs bitsandbytes.",
    )


class AdapterSettings(Section):
    """The adapter: W + (alpha / r) · B · A, with A random, B zero and W frozen."""

    r: int = Field(
        default=8,
        ge=1,
        le=65536,
        title="Rank",
        json_schema_extra={"usual": [4, 64]},
        description="Rank of the update B·A. More rank, more capacity, memory and file size. Usual: 4 to 64.",
    )
    lora_alpha: int | float = Field(
        default=16,
        gt=0,
        title="lora_alpha",
        json_schema_extra={"usual": [8, 128]},
        description="The update is scaled by alpha / r (alpha / √r with use_rslora). Usual: r to 2·r.",
    )
    lora_dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        title="lora_dropout",
        json_schema_extra={"usual": [0, 0.1]},
        description="Share of the adapter's inputs set to zero while training. Usual: 0 to 0.1; more for small data.",
    )
    target_modules: Names | Literal["all-linear"] = Field(
        default=("q_proj", "v_proj"),
        title="Target modules",
        json_schema_extra={"editor": "tree"},
        description="Modules that get an adapter: an entry matches a module named so, or ending in a dot and it. "
        "all-linear takes every linear layer but the head.",
    )
    target_parameters: Names = Field(
        default=(),
        title="Target parameters",
        json_schema_extra={"editor": "tree"},
        description="Parameters that get an adapter though they are no module of their own, such as fused experts.",
    )
    exclude_modules: Names = Field(
        default=(),
        title="Excluded modules",
        json_schema_extra={"editor": "tree"},
        description="Modules left out though target_modules matches them.",
    )
    layers_to_transform: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        default=None,
        title="Layers",
        json_schema_extra={"editor": "tree"},
        description="Only these layers get adapters; empty for all.",
    )
    rank_pattern: RankPattern = Field(
        default_factory=dict,
        title="Ranks by module",
        json_schema_extra={"editor": "tree"},
        description="Rank of single modules, by regular expression on their names.",
    )
    alpha_pattern: AlphaPattern = Field(
        default_factory=dict,
        title="Alphas by module",
        json_schema_extra={"editor": "tree"},
        description="Alpha of single modules, by regular expression on their names.",
    )
    modules_to_save: Names = Field(
        default=(),
        title="modules_to_save",
        json_schema_extra={"more": True},
        description="Modules trained in full and saved with the adapter, such as a new head. Costs their whole size.",
    )
    use_rslora: bool = Field(
        default=False,
        title="use_rslora",
        json_schema_extra={"more": True},
        description="Scale by alpha / √r instead of alpha / r: keeps large ranks learning at the same pace.",
    )
    use_dora: bool = Field(
        default=False,
        title="use_dora",
        json_schema_extra={"more": True},
        description="Learn the magnitude of each output apart from its direction (DoRA). Often better at small ranks; slower.",
    )
    bias: Literal["none", "all", "lora_only"] = Field(
        default="none",
        title="bias",
        json_schema_extra={"more": True},
        description="Which bias vectors train too. all and lora_only change the base model: switched "
        "off, the adapter no longer gives the base back.",
    )
    init_lora_weights: Literal[True, "gaussian"] = Field(
        default=True,
        title="init_lora_weights",
        json_schema_extra={"more": True},
        description="How A starts: Kaiming uniform (PEFT's default) or gaussian. B starts at zero either way, "
        "so the first step starts from the base model.",
    )
    warm_start: str | None = Field(
        default=None,
        title="Begin from",
        json_schema_extra={"more": True},
        description="A run, a checkpoint or a PEFT adapter folder whose update the new adapter begins with, at its rank or a larger one. "
        "Empty: from the base model.",
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        title="Adapter weights",
        json_schema_extra={"more": True},
        description="How A and B are stored. float32 keeps small updates; bfloat16 halves a small part of the memory.",
    )


class DataSettings(Section):
    """The rows to learn from."""

    train: Names = Field(
        default=(),
        title="Data",
        description="Files or folders of training rows, or a Hub data set as hf://owner/name. A path is relative to the config's folder.",
    )
    eval: Names = Field(
        default=(), title="Evaluation data", description="Held-out rows, named as the training rows are; empty to hold out some of those."
    )
    format: Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion", "text", "preference", "unpaired_preference"] = Field(
        default="auto",
        title="Format",
        description="How a row is read; auto looks at every row's keys.",
    )
    columns: ColumnNames = Field(
        default_factory=dict,
        title="Columns",
        json_schema_extra={"editor": "columns"},
        description="Which column of the rows is which key of the format, such as prompt: question. Empty where the rows say so.",
    )
    encoding: Literal[
        "utf-8",
        "utf-16",
        "utf-16-le",
        "utf-16-be",
        "latin-1",
        "gb18030",
        "big5",
        "shift_jis",
        "euc_jp",
        "euc_kr",
        "windows-1250",
        "windows-1251",
        "windows-1253",
        "windows-1254",
        "windows-1255",
        "windows-1256",
        "windows-1257",
        "windows-1258",
        "koi8-r",
    ] = Field(
        default="utf-8",
        title="Encoding",
        description="How text files are encoded. Files that are not UTF-8 are told of, with the encoding that fits.",
    )
    chat_template: str | None = Field(
        default=None,
        title="Chat template",
        json_schema_extra={"editor": "template"},
        description="Empty for the model's own; else the name of one that ships with the studio, or a Jinja template.",
    )
    chat_template_kwargs: TemplateVariables = Field(
        default_factory=dict,
        title="Template variables",
        json_schema_extra={"more": True},
        description="Values of the chat template's own variables, such as enable_thinking: false. Used in training, in samples and chats, "
        "and written into the chat templates of exports as what they are where nobody says otherwise.",
    )
    train_on: Literal["assistant", "last", "each", "completion", "all"] = Field(
        default="assistant",
        title="Trained tokens",
        description="assistant: every answer and its end token. last: the last answer only. each: every answer, in a row of its own that "
        "ends with it, for templates that rewrite earlier turns. completion: the answers of the completion, "
        "or all after the last question. all: every token. Plain text always trains on all.",
    )
    on_unwritten: Literal["refuse", "without", "content"] = Field(
        default="refuse",
        title="Left out by the template",
        json_schema_extra={"more": True},
        description="What becomes of thoughts, calls and turns that the chat template does not write. refuse: such a row is a bad row. "
        "without: train without them; a reasoning model then learns not to think. content: keep thoughts and calls in the answer's text.",
    )
    answer_opening: Literal["trained", "context"] = Field(
        default="trained",
        title="Opening of answers",
        json_schema_extra={"more": True},
        description="Where a row opens an answer otherwise than the prompt at inference does, such as with empty thoughts. trained: the "
        "model learns to write the row's opening. context: only what the row itself says is learned.",
    )
    max_length: int = Field(
        default=1024,
        ge=2,
        le=1 << 22,
        title="max_length",
        json_schema_extra={"usual": [256, 4096]},
        description="Rows are cut to this many tokens. Memory and time grow with it.",
    )
    packing: bool = Field(
        default=False,
        title="packing",
        description="Put several rows into one block of max_length tokens; they do not attend to each other. A batch then counts blocks.",
    )
    eval_fraction: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        title="Held out",
        description="Share of the training rows held out for evaluation when no evaluation file is given. Usual: 0.05 to 0.1.",
    )
    eval_rows: int = Field(
        default=0,
        ge=0,
        title="Held-out rows",
        description="How many training rows are held out for evaluation; 0 goes by the share.",
    )
    on_bad_rows: Literal["stop", "skip"] = Field(
        default="stop", title="Bad rows", description="stop: refuse to train until every row is sound. skip: leave bad rows out."
    )
