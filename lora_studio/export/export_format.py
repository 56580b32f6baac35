"""What an adapter can be exported as, by the names that the command line and certificates use."""

from __future__ import annotations

from typing import Literal

ExportFormat = Literal["adapter", "merged", "gguf", "gguf-adapter", "mlx-adapter"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = ("adapter", "merged", "gguf", "gguf-adapter", "mlx-adapter")
