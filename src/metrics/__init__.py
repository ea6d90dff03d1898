"""How good a predicted mask is: overlap, surface distances in mm, and the table of all cases."""
