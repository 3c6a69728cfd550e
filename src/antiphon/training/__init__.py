"""Fine-tuning in a process of its own, and conversion to what the engine serves."""
