"""Limits on concurrent answers and on requests inside an engine."""
