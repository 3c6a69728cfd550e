"""Releases, their rollouts, and the evidence that judges them."""
