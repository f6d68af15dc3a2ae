"""Give linear maps small trainable parts."""
