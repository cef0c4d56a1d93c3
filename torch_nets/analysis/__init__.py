"""Per-example gradients, privacy, curvature and hidden states."""
