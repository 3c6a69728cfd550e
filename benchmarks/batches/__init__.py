"""Batch work: files, order, stored answers."""
