"""Errors of this room that its callers tell apart."""

from __future__ import annotations

from lora_studio.core.errors import StudioError


class UnreachableError(StudioError):
    """The Hub cannot be reached from here, or is not well: later may go better."""
