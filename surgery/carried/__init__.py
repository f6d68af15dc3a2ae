"""What travels inside a checkpoint, so that transformers alone runs it."""
