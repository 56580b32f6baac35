"""Plain data: settings, run events, the module tree and its arithmetic, the run store, errors."""
