"""A checkpoint as it lies on disk: dense, restructured, or an adapter on its base."""
