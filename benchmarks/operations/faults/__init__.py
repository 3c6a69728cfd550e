"""Faults of a running platform: are they found, by the right cause, how soon, and mended by whom; beside rivals."""
