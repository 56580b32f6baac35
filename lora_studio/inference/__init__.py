"""A loaded model at work: sampling, chat, scoring, and the one that stays loaded."""
