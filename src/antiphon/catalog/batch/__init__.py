"""Batch work: jobs and their rows, files and batches of OpenAI's API, and measurements of work."""
