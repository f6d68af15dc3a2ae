"""What a model costs on real input, and on what input that may be said."""
