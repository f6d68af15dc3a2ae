"""The version, alone in a file that everything may import."""

VERSION = "0.1.0"
