"""Benchmarks of what shows how a platform does: telemetry, history, cost."""
