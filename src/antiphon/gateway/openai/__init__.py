"""The OpenAI-compatible interface: an application, or a plain model, is a ``model`` name."""
