"""Decide what of a model goes, and write what is left."""
