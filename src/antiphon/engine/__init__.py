"""The engine room: continuous batching over one or more models, in a layout whose results repeat bit for bit.

It stands alone above ``core``: ``python -m antiphon.engine --socket PATH --model NAME`` serves the port of
:mod:`antiphon.engine.api.port` to any number of clients.
"""
