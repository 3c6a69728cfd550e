"""Watching of what is live: the looks of the worker, and what people are shown of them."""
