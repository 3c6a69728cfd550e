"""What a definition computes of an event, compiled: to SQL for batch, to Python closures online."""
