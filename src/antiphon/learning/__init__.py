"""Batch learns from what online saw: outcomes, datasets, evaluation, retraining."""
