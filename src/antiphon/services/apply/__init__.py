"""Applying a project's definitions."""
