"""Cedar policies: their versions, checks and decisions."""
