"""Learning: datasets, evaluations, model versions and outcomes."""
