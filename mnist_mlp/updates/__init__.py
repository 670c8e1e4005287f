"""Faster and wider ways to make the updates that `steps` makes."""
