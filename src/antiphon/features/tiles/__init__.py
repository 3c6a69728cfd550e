"""Partial aggregates, kept as integers, and the one way in which they are finished."""
