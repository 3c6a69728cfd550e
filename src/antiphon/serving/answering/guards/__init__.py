"""Checks of an output: one file a kind of guard, and ``check`` for all of them together."""
