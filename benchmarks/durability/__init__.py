"""Kills at random moments: nothing lost, doubled or torn."""
