"""LoRA Studio: configure low-rank adaptation visually, watch it train, export with a button."""

__version__ = "0.1.0"
