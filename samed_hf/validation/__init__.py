"""A data set looked through before it is trained on: what is wrong with it, what it is, what would suit it."""
