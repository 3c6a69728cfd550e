"""Evaluation through ``answer()``: measures, attack probes, gates."""
