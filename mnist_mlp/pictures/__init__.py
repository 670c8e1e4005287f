"""Users' own pictures of digits: reading image files, preprocessing them, predicting the digit."""
