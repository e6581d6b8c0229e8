"""Environments that ship, or need care of their own."""
