"""How ranks agree: their places, collectives, and the flat arena."""
