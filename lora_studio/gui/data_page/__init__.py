"""The parts of the Data page: files, problems, columns, rows, tokens, lengths, chat template."""
