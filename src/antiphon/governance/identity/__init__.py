"""Principals, their credentials, and how much each may use."""
