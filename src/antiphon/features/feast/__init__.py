"""Feast before Antiphon: a repository read and translated."""
