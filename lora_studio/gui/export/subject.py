"""What the Export dialog exports: a run's adapter, or one that was imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lora_studio.core.errors import StudioError
from lora_studio.core.runs import RunFolder
from lora_studio.export.source import find_source
from lora_studio.gui.export.text import ExportSource, sources_of
from lora_studio.gui.platform.text import tr
from lora_studio.models.facts import ModelFacts, read_facts
from lora_studio.models.full_precision import full_precision_of
from lora_studio.models.quantization import NONE
from lora_studio.models.sources import find_model
from lora_studio.models.stored_quantization import StoredQuantization


@dataclass(frozen=True)
class ExportSubject:
    """An adapter that can be exported.

    Attributes:
        name: What it is called.
        told: Name, rank and alpha, as a line.
        base: What its base model is called.
        revision: The base's revision, where one was named.
        quantization: How the base was held while it was trained.
        sources: Its weights: a run's final adapter and checkpoints, or one folder.
        exports: Folder that exports are suggested in.
        folder: What an export must leave alone.
    """

    name: str
    told: str
    base: str
    revision: str | None
    quantization: str
    sources: tuple[ExportSource, ...]
    exports: Path
    folder: Path

    @classmethod
    def of_run(cls, folder: RunFolder) -> ExportSubject:
        """Take a run."""
        config = folder.config
        text = tr("{run} · r {r} · α {alpha:g}", run=folder.name, r=config.adapter.r, alpha=config.adapter.lora_alpha)
        model = config.model
        return cls(
            folder.name,
            text,
            model.name_or_path,
            model.revision,
            model.quantization,
            tuple(sources_of(folder)),
            folder.path / "exports",
            folder.path,
        )

    @classmethod
    def of_folder(cls, folder: Path) -> ExportSubject:
        """Take an adapter's folder.

        Raises:
            InputError: It holds no adapter that can be read.
        """
        detected = find_source(folder)
        r, alpha = detected.peft_config.get("r", "?"), detected.peft_config.get("lora_alpha", "?")
        text = tr("{run} · r {r} · α {alpha}", run=folder.name, r=r, alpha=alpha)
        source = ExportSource(tr("the imported adapter"), folder)
        exports = folder.parent.parent / "exports" / folder.name
        return cls(folder.name, text, detected.base_name, detected.base_revision, NONE, (source,), exports, folder)

    def weights(self, source: ExportSource) -> Path:
        """Return the folder in which a source's weights lie."""
        final = source.path / "adapter"
        return final if (source.path / "run.yaml").is_file() and final.is_dir() else source.path

    def base_folder(self) -> Path | None:
        """Return the base model's folder; None where it is not on this machine."""
        try:
            detected = find_model(self.base, self.revision)
        except (StudioError, OSError):
            return None
        return detected.path or detected.file

    @property
    def stored(self) -> StoredQuantization | None:
        """How the base's own files are quantized; None where they are not, or not here."""
        facts = self.facts()
        return facts.stored if facts else None

    @property
    def full_precision(self) -> str:
        """What the base in full precision is called where this one is quantized; empty where nothing tells."""
        return full_precision_of(self.base, self.base_folder())

    def facts(self) -> ModelFacts | None:
        """Return the base model's facts, where it is here."""
        folder = self.base_folder()
        try:
            return read_facts(folder) if folder else None
        except (StudioError, OSError):
            return None
