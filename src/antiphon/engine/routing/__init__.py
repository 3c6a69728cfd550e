"""Routing over several engines: which one a request goes to, and what happens when one is away."""
