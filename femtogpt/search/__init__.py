"""Several starts trained in turn, the worse half left behind each round: successive halving."""
