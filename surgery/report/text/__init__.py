"""What a report says, as sentences and tables for every view."""
