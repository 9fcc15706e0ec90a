"""A plain Flower app that does no work: what a round costs before anything of fedvox is in it."""
