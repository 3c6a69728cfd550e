"""Batch beside online before one server that many processes share."""
