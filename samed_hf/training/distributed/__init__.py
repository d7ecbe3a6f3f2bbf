"""Several processes: sharded weights, interruption, launching."""
