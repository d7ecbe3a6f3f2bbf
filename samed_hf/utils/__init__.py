"""What has nothing to do with medicine or models: atomic writes, text, pipelining, logging."""
