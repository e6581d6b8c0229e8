"""Checkpoints: written whole, kept by a rule, loaded on any number of ranks."""
