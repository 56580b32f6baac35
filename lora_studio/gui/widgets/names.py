"""Names and roles of widgets."""

from __future__ import annotations

import re

from PySide6.QtWidgets import QWidget


def identifier(title: str) -> str:
    """Return a title as an object name: `Base model` becomes `base_model`."""
    return re.sub(r"\W+", "_", title).strip("_").lower()


def set_role(widget: QWidget, role: str, property_name: str = "role") -> None:
    """Set a role of a widget that the style sheet knows; one that is shown already is styled anew."""
    if widget.property(property_name) == role:
        return
    widget.setProperty(property_name, role)
    style = widget.style()
    style.unpolish(widget)
    style.polish(widget)
    widget.update()
