"""The lesson's eight steps: a whole trainer by itself, to be read from data to evaluate."""
