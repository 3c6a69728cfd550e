"""Watching of live releases: ceilings from evaluations, evidence from what users got, and the verdict."""
