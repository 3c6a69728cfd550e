"""Vectors of texts: made in batch, found again online, and compared."""
