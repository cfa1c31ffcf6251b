"""Recommenders without gradient descent: neighbours, factors and closed forms, fitted in one go on sparse ratings."""
