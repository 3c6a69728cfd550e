"""Outcomes: submission, matching to predictions, and measures over them."""
