"""May this happen, and what is the evidence: identity, policy, audit."""
