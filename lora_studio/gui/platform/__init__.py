"""What the window needs of the desktop: displays, one instance, file dialogs, units, its own state."""
