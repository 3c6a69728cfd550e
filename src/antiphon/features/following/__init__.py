"""Places that other systems write events to: read by position, a page at a time."""
