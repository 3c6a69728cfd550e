"""When work happens between the two paths: the worker's loop, stream consumers, refresh schedule."""
