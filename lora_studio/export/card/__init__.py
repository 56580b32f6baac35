"""The model card: its text, curves, and what other programs make of an artefact."""
