"""Lineage of runs: from sources to answers, as OpenLineage events and as a graph.

Everything is derived from what the catalog keeps of runs and of what they made; nothing is written for it but how much
a receiver has.
"""
