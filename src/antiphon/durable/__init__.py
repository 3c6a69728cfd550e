"""Workflows and steps that survive a crash: a leased journal in the catalog.

A workflow is an async function ``(run, arguments) -> result``. What it does goes through ``run.step`` (at least
once, so the effect is idempotent) and ``run.transaction`` (exactly once: effect and record are one transaction).
A run whose worker died is claimed by another, which calls the workflow again; recorded steps return their recorded
result without running.
"""
