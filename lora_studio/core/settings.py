"""The sections of a `RunConfig`, field by field.

A field's constraints give its editor's range, its description the tooltip. Names are PEFT's and transformers' own.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NoReturn, Self, TypeVar, cast

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictFloat, StrictInt

from lora_studio.core.variable_lines import read_lines

STARTER_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
HUB_SCHEME = "hf://"
"""How the name of a Hub data set starts among files of rows."""

Value = TypeVar("Value")
_GIVEN_TO_TEMPLATES = ("messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token")


class FrozenDict(dict[str, Value]):
    """A dictionary that refuses to change, so that a frozen config is frozen all the way down."""

    def _refuse(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise TypeError("a RunConfig does not change; use replace()")

    __setitem__ = __delitem__ = clear = pop = popitem = setdefault = update = __ior__ = _refuse  # type: ignore[assignment]

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type[Self], tuple[dict[str, Value]]]:
        return type(self), (dict(self),)


def _one_or_many(value: object) -> object:
    """Let a person write a single string where a list is meant."""
    return [value] if isinstance(value, str) else value


def _switch(value: object) -> object:
    """Read gradient_checkpointing as older files have it, and as YAML reads a bare `off`: a truth value."""
    return ("full" if value else "off") if isinstance(value, bool) else value


def _written_variables(value: object) -> object:
    """Read `name=value`, or several of these, as lines of a form hold them."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        return value
    return read_lines("\n".join(map(str, cast("list[object]", parts))))


def _template_variables(values: dict[str, Any]) -> dict[str, Any]:
    """Refuse names that whoever renders a chat template gives it, or that no template can use."""
    for name in values:
        if not name.isidentifier() or name.startswith("_") or name in _GIVEN_TO_TEMPLATES:
            raise ValueError(f"{name!r} is no variable of a chat template's own")
    return values


Names = Annotated[tuple[str, ...], BeforeValidator(_one_or_many)]
RankPattern = Annotated[dict[str, Annotated[int, Field(ge=1, le=65536)]], AfterValidator(FrozenDict)]
ColumnNames = Annotated[dict[str, str], AfterValidator(FrozenDict)]
TemplateVariables = Annotated[
    dict[str, StrictBool | StrictInt | StrictFloat | str], BeforeValidator(_written_variables), AfterValidator(_template_variables),
    AfterValidator(FrozenDict),
]
AlphaPattern = Annotated[dict[str, Annotated[int | float, Field(gt=0)]], AfterValidator(FrozenDict)]


class Section(BaseModel):
    """A frozen part of a config that knows its fields and no others."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


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
    format: Literal[
        "auto", "messages", "sharegpt", "alpaca", "prompt_completion", "text", "preference", "unpaired_preference"
    ] = Field(
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
        "utf-8", "utf-16", "utf-16-le", "utf-16-be", "latin-1", "gb18030", "big5", "shift_jis", "euc_jp", "euc_kr", "windows-1250",
        "windows-1251", "windows-1253", "windows-1254", "windows-1255", "windows-1256", "windows-1257", "windows-1258", "koi8-r"
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


class TrainingSettings(Section):
    """The loop."""

    method: Literal["sft"] = Field(
        default="sft",
        title="Method",
        description="Supervised fine-tuning: learn to give the answers in the data.",
        json_schema_extra={"hidden": True},
    )
    learning_rate: float = Field(
        default=2e-4,
        gt=0,
        le=10,
        title="learning_rate",
        json_schema_extra={"usual": [5e-5, 1e-3]},
        description="Step size at its highest. Usual for LoRA: 1e-4 to 5e-4.",
    )
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = Field(
        default="cosine",
        title="Schedule",
        description="How the learning rate falls after the warm-up.",
    )
    warmup_steps: int = Field(
        default=0,
        ge=0,
        title="warmup_steps",
        description="Steps over which the learning rate climbs from zero. Usual: 0 to 10% of all steps.",
    )
    per_device_train_batch_size: int = Field(
        default=4,
        ge=1,
        le=65536,
        title="Batch size",
        json_schema_extra={"usual": [1, 32]},
        description="Rows in one forward and backward pass. Costs memory, not quality.",
    )
    gradient_accumulation_steps: int = Field(
        default=1,
        ge=1,
        le=65536,
        title="Accumulation",
        json_schema_extra={"usual": [1, 32]},
        description="Passes added up before one step. Batch size times this is what the step learns "
        "from; splitting it changes nothing but rounding.",
    )
    num_train_epochs: float = Field(
        default=1,
        gt=0,
        le=10000,
        title="Epochs",
        json_schema_extra={"usual": [1, 5]},
        description="Times the data is gone through. Usual: 1 to 3.",
    )
    max_steps: int = Field(
        default=-1, ge=-1, title="max_steps", json_schema_extra={"more": True}, description="Stop after this many steps; -1 goes by epochs."
    )
    optim: Literal["adamw_torch"] = Field(
        default="adamw_torch", title="optim", json_schema_extra={"hidden": True}, description="AdamW, over the adapter's parameters alone."
    )
    adam_beta1: float = Field(
        default=0.9, ge=0, lt=1, title="adam_beta1", json_schema_extra={"more": True}, description="Decay of the mean of gradients."
    )
    adam_beta2: float = Field(
        default=0.999,
        ge=0,
        lt=1,
        title="adam_beta2",
        json_schema_extra={"more": True},
        description="Decay of the mean of squared gradients.",
    )
    weight_decay: float = Field(
        default=0.0,
        ge=0,
        le=10,
        title="weight_decay",
        json_schema_extra={"more": True},
        description="Pull of the adapter's weights towards zero. Usual: 0 to 0.1.",
    )
    max_grad_norm: float = Field(
        default=1.0,
        ge=0,
        title="max_grad_norm",
        json_schema_extra={"more": True},
        description="Gradients are scaled down to this norm; 0 leaves them. Usual: 0.3 to 1.",
    )
    gradient_checkpointing: Annotated[Literal["auto", "off", "layers", "full"], BeforeValidator(_switch)] = Field(
        default="auto",
        title="gradient_checkpointing",
        json_schema_extra={"more": True},
        description="Compute activations again in the backward pass instead of keeping them: less memory, more time. full: of all "
        "layers, up to half as much time again. layers: of one in gradient_checkpointing_every. auto: the least that fits the memory.",
    )
    gradient_checkpointing_every: int = Field(
        default=2,
        ge=2,
        le=1024,
        title="Layers computed again",
        json_schema_extra={"more": True, "usual": [2, 4]},
        description="One in so many, with gradient_checkpointing: layers. 2 saves the most, 4 half of that at half the time.",
    )
    torch_compile: bool = Field(
        default=False,
        title="torch_compile",
        json_schema_extra={"more": True},
        description="Compile the decoder layers. Measured on a small model and a CPU: steps 5 to 15% quicker and a quarter less kept "
        "memory, after one to three minutes of warm-up. Worth it for long runs. Needs a C++ compiler, on CUDA Triton.",
    )
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        title="Computation",
        json_schema_extra={"more": True},
        description="Precision of the matrix products. auto takes bfloat16 where the device is quick with it. float16 scales the loss.",
    )
    device: Literal["auto", "cuda", "mps", "cpu"] = Field(
        default="auto", title="Device", json_schema_extra={"more": True}, description="auto takes CUDA, then MPS, then the CPU."
    )
    num_processes: int = Field(
        default=1,
        ge=1,
        le=65536,
        title="num_processes",
        json_schema_extra={"more": True, "usual": [1, 8]},
        description="Processes that share every step, each with a graphics card of its own. What a step learns from is batch size times "
        "accumulation times this.",
    )
    distributed_type: Literal["ddp", "fsdp2"] = Field(
        default="ddp",
        title="distributed_type",
        json_schema_extra={"more": True},
        description="How several processes hold the base model. ddp: each has all of it. fsdp2: each has a part, and the layer at work "
        "is put together for as long as it is needed: for models that do not fit on one card; slower.",
    )
    train_sampling_strategy: Literal["random", "sequential", "group_by_length"] = Field(
        default="group_by_length",
        title="Order of rows",
        json_schema_extra={"more": True},
        description="group_by_length puts rows of like length into one batch, so little padding is computed.",
    )
    logging_steps: int = Field(
        default=1, ge=1, title="logging_steps", json_schema_extra={"more": True}, description="A point on the curves every so many steps."
    )
    eval_steps: int = Field(
        default=0,
        ge=0,
        title="eval_steps",
        json_schema_extra={"more": True},
        description="Evaluate every so many steps; 0 once an epoch. Always at the end.",
    )
    save_steps: int = Field(
        default=0,
        ge=0,
        title="save_steps",
        json_schema_extra={"more": True},
        description="Checkpoint every so many steps; 0 once an epoch. Always at the end, on pause and on stop.",
    )
    save_total_limit: int = Field(
        default=3, ge=1, title="save_total_limit", json_schema_extra={"more": True}, description="Checkpoints kept; older ones are removed."
    )
    save_minutes: float = Field(
        default=15,
        ge=0,
        le=100_000,
        title="save_minutes",
        json_schema_extra={"more": True},
        description="Checkpoint as well when the last one is this many minutes old; 0 leaves it to save_steps.",
    )
    early_stopping_patience: int = Field(
        default=0,
        ge=0,
        title="early_stopping_patience",
        json_schema_extra={"more": True},
        description="End the run once so many evaluations in a row have not improved; 0 never does. Usual: 2 to 5.",
    )
    early_stopping_threshold: float = Field(
        default=0.0,
        ge=0,
        title="early_stopping_threshold",
        json_schema_extra={"more": True},
        description="By how much the evaluation loss has to fall to count as improved.",
    )
    load_best_model_at_end: bool = Field(
        default=False,
        title="load_best_model_at_end",
        json_schema_extra={"more": True},
        description="Finish with the adapter of the best evaluation instead of the last step's. Its checkpoint is kept either way.",
    )
    sample_steps: int = Field(
        default=0,
        ge=0,
        title="sample_steps",
        json_schema_extra={"more": True},
        description="Answer the held-out prompts every so many steps too; 0 only before and after.",
    )
    sample_rows: int = Field(
        default=5,
        ge=0,
        le=1000,
        title="Sampled rows",
        json_schema_extra={"more": True},
        description="Held-out prompts answered before and after the run.",
    )
    sample_max_new_tokens: int = Field(
        default=96, ge=1, le=8192, title="Answer length", json_schema_extra={"more": True}, description="Most tokens of one sampled answer."
    )
    seed: int = Field(
        default=0,
        ge=0,
        lt=1 << 63,
        title="seed",
        json_schema_extra={"more": True},
        description="Decides the adapter's start, the order of rows, dropout and the held-out rows.",
    )

    @property
    def rows_per_step(self) -> int:
        """The global batch: rows (packed blocks, with packing) that one optimizer step learns from, over all processes."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * self.num_processes
