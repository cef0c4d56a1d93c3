"""One command per task; each has main(config), which notebooks call too."""
