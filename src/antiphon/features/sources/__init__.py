"""Reading of events: files, Delta tables, objects, PostgreSQL, queries over tables."""
