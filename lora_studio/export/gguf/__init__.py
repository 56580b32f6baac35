"""Models and adapters for llama.cpp, recomputed and run there."""
