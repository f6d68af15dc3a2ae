"""``--to ct2``: CTranslate2 and faster-whisper."""
