"""Ours beside its peers: every file writes its numbers to results/."""
