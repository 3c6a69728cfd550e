"""Features of one project: publishing, reading, watching, taking back."""
