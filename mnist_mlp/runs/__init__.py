"""Runs: what they are on disk, and how one is put to work."""
