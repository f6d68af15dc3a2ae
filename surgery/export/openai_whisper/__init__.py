"""``--to openai-whisper``, and its model with smaller heads."""
