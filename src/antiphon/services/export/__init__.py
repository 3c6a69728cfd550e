"""Features of one project as files and frames for other tools."""
