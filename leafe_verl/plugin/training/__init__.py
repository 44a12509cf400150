"""Everything that turns SFT examples into new weights: the trainers, the SFT role and training on prefix trees."""
