"""A recommender framework: a shop's tables in; a trained, evaluated and exported model out."""

__version__ = "0.1.0"
