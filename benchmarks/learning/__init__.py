"""Training, judge, releases."""
