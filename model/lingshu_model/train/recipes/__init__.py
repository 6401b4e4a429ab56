"""What a training is made of where another recipe is asked for; the recipe of the paper."""
