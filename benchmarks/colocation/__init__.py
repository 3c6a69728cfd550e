"""Judges the step scheduler: batch work beside online work, against other policies and against an oracle."""
