"""Releases: the immutable bundle, what differs between two, and the live pointer as gateways read it."""
