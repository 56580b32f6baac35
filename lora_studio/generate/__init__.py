"""A loaded model at work: sampling, chat, scoring, and the host that owns it."""
