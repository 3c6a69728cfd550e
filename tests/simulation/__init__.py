"""The simulation: catalog, workers, releases, batches, streams and audit in one process, under one seeded scheduler."""
