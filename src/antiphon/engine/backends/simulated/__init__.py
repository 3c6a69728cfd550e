"""Deterministic words instead of weights, with the timing of a model."""
