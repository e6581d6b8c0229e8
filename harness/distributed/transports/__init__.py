"""What carries the collectives of a group of ranks."""
