"""How fast a recipe's network trains and predicts: by mode, precision, batch size and number of ranks."""
