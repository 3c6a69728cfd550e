"""Documents: read from files and tables within bounds, cut into chunks, and retrieved from what is published."""
