"""Chaos experiments over one project: what may be broken here, by whom, what is measured, and what is kept of it."""
