"""Data keys, what wraps them, and payloads sealed with them."""
