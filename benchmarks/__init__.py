"""Benchmarks on random weights at the paper's size, against plain transformers and PEFT, scipy and medpy.

`python -m benchmarks` runs all of them and renders the table of docs/benchmarks.md.
"""
