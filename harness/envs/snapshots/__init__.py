"""What an environment goes on from, taken out of it and put back."""
