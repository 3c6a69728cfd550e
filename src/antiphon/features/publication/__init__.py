"""Publications: publish, roll back, prune and repair."""
