"""The page of each kind of operation."""
