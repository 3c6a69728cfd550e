"""Decides what each step computes: pure functions and models of time, without a runtime."""
