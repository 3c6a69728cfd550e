"""Features as they were readable at each row's own moment, for many rows at once."""
