"""Features beside Feast: lookups, publishing, streams, equality of all paths."""
