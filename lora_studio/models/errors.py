"""Errors of this room that its own code tells apart."""

from __future__ import annotations

from lora_studio.core.errors import InputError


class IncompleteModelError(InputError):
    """Files of a model are missing or cut: fetching or copying it again would help."""
