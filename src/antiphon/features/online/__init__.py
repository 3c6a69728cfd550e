"""The online store: sealed snapshots and the streamed overlay."""
