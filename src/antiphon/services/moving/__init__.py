"""Moving a project between embedded and grown stores: catalog, lake, files, online store and event log."""
