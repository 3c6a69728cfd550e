"""Expressions of definitions compiled to SQL for batch and to Python closures for online reads."""
