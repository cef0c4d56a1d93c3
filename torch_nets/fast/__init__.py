"""Compiled and hand-written operations: the only place that may use private names of torch."""
