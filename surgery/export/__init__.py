"""Results in other people's formats, and their small parts in ours."""
