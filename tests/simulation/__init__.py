"""The simulation: real catalog, workers, releases, batches and audit in one process under one seeded scheduler."""
