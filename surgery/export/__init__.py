"""The same model in other people's formats, written and then run there to compare."""
