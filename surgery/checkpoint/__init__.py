"""Reading checkpoints tensor by tensor, resolving their names, and writing them all or not."""
