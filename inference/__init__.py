"""Networks at work on scans that nobody has outlined: probabilities, masks, expected Dice."""
