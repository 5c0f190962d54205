"""`explain`: say in sentences what the numbers of an index, a training and masks mean, and what to try next."""
