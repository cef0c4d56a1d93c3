"""The vocabulary that NumPy and torch networks share; without tensors it imports no torch."""
