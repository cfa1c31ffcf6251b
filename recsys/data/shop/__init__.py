"""A seeded e-commerce shop whose true click probability is known.

`logit.click_logit` holds every effect and `click_probability = sigmoid(logit)`, so the best AUC that a model can
reach on the data is the AUC of that column. Letters of the array suffixes: U users, I items, C categories, B brands,
K cities, D days, G friend circles, S scenes, V visits, N rows, E friendships, H hours, P positions in a visit, W bytes.
"""

from recsys.data.shop.generate import write_shop

__all__ = ["write_shop"]
