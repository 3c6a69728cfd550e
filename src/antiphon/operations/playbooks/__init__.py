"""Playbooks against incidents: which fit, and how often they would have been right. Pure."""
