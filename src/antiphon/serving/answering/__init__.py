"""Steps of one answer."""
