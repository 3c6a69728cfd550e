"""Shipped fakes for tests of Antiphon and of what is built on it."""
