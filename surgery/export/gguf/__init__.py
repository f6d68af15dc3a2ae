"""``--to gguf``: llama.cpp."""
