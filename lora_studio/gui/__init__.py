"""The window. Only this room imports PySide6."""
