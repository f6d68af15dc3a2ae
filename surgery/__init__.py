"""Restructure and prune trained transformers offline, and measure what it cost."""

__version__ = "0.1.0"
