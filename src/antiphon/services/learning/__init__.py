"""Outcomes, datasets, trainings and models of one project."""
