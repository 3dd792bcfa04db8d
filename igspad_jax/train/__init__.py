"""Learning a scene of the normal object from posed images."""
