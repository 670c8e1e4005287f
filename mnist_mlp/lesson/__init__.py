"""The lesson on real numbers: its claims checked, and one image taken through its steps."""
