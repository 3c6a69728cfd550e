"""Event logs beside the catalog's own."""
