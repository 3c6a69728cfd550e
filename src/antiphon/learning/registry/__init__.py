"""Registered models: files, cards, comparisons."""
