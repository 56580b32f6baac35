"""Dialogs of the workspace."""

from lora_studio.gui.dialogs.yaml_view import YamlDialog

__all__ = ["YamlDialog"]
