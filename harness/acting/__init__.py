"""Acting: from observations to actions, by whatever is fastest for the network and the batch."""
