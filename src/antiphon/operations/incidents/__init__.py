"""Incidents: symptoms found in the history and other records, correlated along the topology into root sets."""
