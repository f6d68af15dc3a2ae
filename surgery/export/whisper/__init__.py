"""What every export of a Whisper needs: dimensions, words, alignment, texts."""
