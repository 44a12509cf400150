"""Hydra configurations: differences from verl's own YAML."""
