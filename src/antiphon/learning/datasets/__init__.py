"""Datasets: planned, built point in time, read back."""
