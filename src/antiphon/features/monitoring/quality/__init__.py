"""How good a source and a snapshot are, and the gates that judge it."""
