"""What a gateway costs: ours beside LiteLLM's proxy, before one upstream: ``python -m benchmarks.gateway``."""
