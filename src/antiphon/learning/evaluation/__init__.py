"""Evaluation through ``answer()``: measures, safety suites, gates."""
