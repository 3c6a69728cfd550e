"""Orchestration: the worker's loop, stream consumers, the refresh schedule, rollouts, the governor."""
