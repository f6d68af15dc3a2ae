"""One file a family: everything that anything here knows of it, as data."""
