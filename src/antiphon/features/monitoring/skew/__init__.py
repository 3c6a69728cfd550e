"""Comparison of batch and online values on live data."""
