"""What outlives a process: checkpoints, run directories, and requests to stop."""
