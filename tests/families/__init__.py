"""The long suite: every causal language model family of the installed transformers, as a tiny random model, through all that we do with it."""
