"""Optimizers with an idea of their own, one a file; the classic ones are in `optim.optimizers`."""
