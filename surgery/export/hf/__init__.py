"""``--to hf``: a checkpoint of a stock class."""
