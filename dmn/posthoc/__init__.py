"""Trained networks, canonized and split into differences of monotone ones, exactly."""
