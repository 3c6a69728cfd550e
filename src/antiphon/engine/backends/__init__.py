"""Model runtimes and servers behind the engine's port."""
