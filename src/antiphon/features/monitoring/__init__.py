"""Quality of sources and snapshots, and skew between batch and online."""
