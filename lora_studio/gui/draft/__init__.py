"""The draft of a run: its settings, and what follows from them for model, data, plan and readiness."""
