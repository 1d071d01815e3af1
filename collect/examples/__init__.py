"""What the training stages learn from: pairs, labels, champions, preferences."""
