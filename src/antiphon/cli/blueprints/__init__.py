"""Projects to start from."""
