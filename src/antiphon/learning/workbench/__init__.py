"""The prompt workbench: trials of drafts on production requests, comparison, annotation, regression sets."""
