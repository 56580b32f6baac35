"""What every check needs, imported once: checks are forked from the process that has it."""

from lora_studio.core.engine_import import import_engine

import_engine()

import lora_studio.export.task  # noqa: E402
import lora_studio.train.engine  # noqa: E402, F401
