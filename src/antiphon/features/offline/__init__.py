"""Batch computation of feature views: materialization, refresh, history, lineage and point-in-time joins."""
