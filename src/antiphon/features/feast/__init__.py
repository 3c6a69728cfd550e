"""Feast beside and before Antiphon: a repository read and translated, and an online store served under contracts."""
