"""The long suite: every causal language model family of transformers, as a tiny random model, through all that we do."""
