"""What a restructured model costs, measured on real audio and text."""
