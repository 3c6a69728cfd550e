"""Streamed events: the consumer and event logs on a server."""
