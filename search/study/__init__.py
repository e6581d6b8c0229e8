"""A study: its storage, directory, budget and objective."""
