"""Measurements on random weights at the paper's size: what this package costs beside what else one would run.

`python -m benchmarks` measures all of it in one run and writes the README's table.
"""
