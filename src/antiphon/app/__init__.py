"""The composition root: one wiring function per kind of process; the only place that chooses implementations."""
