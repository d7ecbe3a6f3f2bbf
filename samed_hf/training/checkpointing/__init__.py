"""Checkpoints of a run, its files and its record."""
