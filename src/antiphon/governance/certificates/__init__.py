"""TLS certificates of a project and of its own authority."""
