"""The window around the pages: header, columns, status, commands, help, closing."""
