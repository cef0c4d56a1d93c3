"""Optimizers that look at the loss elsewhere: L-BFGS, and steps of a length that is searched."""
