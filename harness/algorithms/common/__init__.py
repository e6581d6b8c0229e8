"""What families of algorithms share."""
