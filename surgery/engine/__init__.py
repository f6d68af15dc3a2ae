"""From names to results: plan, check, decompose, rewrite as a stream, verify, commit."""
