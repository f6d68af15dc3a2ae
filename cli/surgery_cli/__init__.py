"""The command line: parsing and rendering, no mathematics and no I/O of its own."""
