"""The append-only audit log, its checkpoints and proofs."""
