"""LEAFE for verl: agents that learn to recover from their own mistakes (arXiv 2603.16843)."""

__version__ = "0.1.0"
