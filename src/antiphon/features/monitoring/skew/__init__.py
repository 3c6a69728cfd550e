"""Whether batch and online agree on live data."""
