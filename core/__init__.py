"""The vocabulary that NumPy and torch networks share; never imports torch."""
