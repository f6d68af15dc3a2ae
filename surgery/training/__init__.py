"""Training the small parts that a surgery left."""
