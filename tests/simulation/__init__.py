"""The simulation: catalog, workers, schedules, releases, batches, streams and audit in one process, under one seeded scheduler."""
