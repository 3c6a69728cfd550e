"""Incidents of a project: assessed by the worker, read and moved by people."""
