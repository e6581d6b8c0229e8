"""Where we run: this process among its ranks, and what this machine gives it. Imports no torch."""
