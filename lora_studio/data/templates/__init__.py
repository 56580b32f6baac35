"""Conversations into text by chat templates, and which stretches of it are trained."""
