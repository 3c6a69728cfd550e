"""Retraining: the durable workflow from new outcomes to a validated release."""
