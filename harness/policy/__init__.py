"""What a trained policy is good for."""
