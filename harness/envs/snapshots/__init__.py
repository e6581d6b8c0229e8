"""An environment's state, taken out of it and put back."""
