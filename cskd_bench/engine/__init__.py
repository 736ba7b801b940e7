"""Training: the loop, optimiser, EMA, checkpoints, ranks, evaluation."""
