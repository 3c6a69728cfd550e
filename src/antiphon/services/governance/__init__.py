"""Identity, policy, audit and encryption of one project."""
