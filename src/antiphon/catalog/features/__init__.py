"""Features: definitions, snapshots, publications, verdicts, and the event log."""
