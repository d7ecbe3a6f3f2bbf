"""What a run logs, draws and reports."""
