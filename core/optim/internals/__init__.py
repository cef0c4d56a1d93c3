"""What optimizers are computed with: arithmetic, precision, vectors of all leaves, kernels."""
