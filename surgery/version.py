"""The version, and those of the libraries that compute; everything may import it."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

VERSION = "0.1.0"

LIBRARIES = ("torch", "transformers", "safetensors", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of this package and of the libraries that computed the result."""
    return {"surgery": VERSION, **{name: _installed(name) for name in LIBRARIES}}


@cache
def _installed(name: str) -> str:
    return version(name)  # reads and parses the package's whole metadata
