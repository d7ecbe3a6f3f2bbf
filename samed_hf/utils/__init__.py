"""Helpers independent of medicine and models: atomic writes, text, pipelining, logging."""
