"""What events are read from: files, Delta tables, PostgreSQL, queries over tables."""
