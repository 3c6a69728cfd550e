"""The command line: one file per noun; thin over the same functions that the gateway calls."""
