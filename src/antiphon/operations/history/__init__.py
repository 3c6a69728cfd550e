"""One history of what happened: what all processes measured, kept over years, read by everything that looks back."""
