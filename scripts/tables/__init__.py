"""The tables of the notebooks, one file a part."""
