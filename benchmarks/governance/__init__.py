"""Policy, identity, audit, encryption, TLS: what they hold and what they cost."""
