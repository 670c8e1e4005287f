"""The way out: a trained network as a file for other programs, and as a page for people."""
