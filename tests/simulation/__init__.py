"""The simulation: catalog, workers, schedules, releases, batches, streams and audit in one process, as a seed orders
them."""
