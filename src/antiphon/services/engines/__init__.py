"""Engines of a project: where they are, and how they are started."""
