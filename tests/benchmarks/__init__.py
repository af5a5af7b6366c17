"""Measurements, not tests: each prints a table."""
