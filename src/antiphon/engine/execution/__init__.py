"""Carries steps out: the step loop, one executor per model, and the states of their sequences."""
