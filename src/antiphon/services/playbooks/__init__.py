"""Playbooks of a project: ordered by the worker, taken step by step, decided about by people."""
