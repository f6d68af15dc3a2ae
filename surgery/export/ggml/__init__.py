"""``--to ggml``: whisper.cpp."""
