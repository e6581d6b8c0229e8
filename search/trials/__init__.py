"""A trial: its runs, their outcome, recovery and confirmation."""
