"""The section of a `RunConfig` that is about the loop, field by field; see `settings`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from lora_studio.core.setting_types import Section, switch


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
    gradient_checkpointing: Annotated[Literal["auto", "off", "layers", "full"], BeforeValidator(switch)] = Field(
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
