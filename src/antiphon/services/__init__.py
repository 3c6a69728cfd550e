"""Use cases over the rooms: what the gateway and the commands call."""
