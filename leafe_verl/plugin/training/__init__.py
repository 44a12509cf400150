"""From SFT examples to new weights: the trainers, the SFT role, and training on prefix trees."""
