"""What a run saved and what it cost: one report, drawn as JSON, page, card and pictures."""
