"""What follows the training of a network: effects, delivery, fitness check, evidence, files."""
