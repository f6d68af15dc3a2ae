"""``--to peft``: small parts as PEFT stores them."""
