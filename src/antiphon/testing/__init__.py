"""Shipped fakes and the kill harness: what tests of Antiphon, and of what is built on it, stand on."""
