"""Orchestration: the worker's loop, stream consumers, the conductor of schedules, rollouts, the governor."""
