"""A person's own picture of a digit: read, prepared and classified."""
