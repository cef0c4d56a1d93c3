"""The figures of each part of the assignment."""
