"""``trim-vocabulary``: the tokens that stay, and the checkpoint without the others."""
