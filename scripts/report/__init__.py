"""The report, one file a part."""
