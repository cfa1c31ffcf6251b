"""The shop's words: categories, brands, cities and what else its files name."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Category(NamedTuple):
    """A category: `price` is the median; `older` and `women` tell whom it attracts, about -1 to 1."""

    sector: str
    price: float
    older: float
    women: float
    durable: bool  # one is enough for months


CATEGORIES: Mapping[str, Category] = {
    "phone": Category("tech", 620, older=-0.55, women=-0.20, durable=True),
    "phone case": Category("tech", 22, older=-0.45, women=0.35, durable=False),
    "laptop": Category("tech", 1050, older=-0.30, women=-0.45, durable=True),
    "laptop bag": Category("tech", 55, older=0.10, women=0.20, durable=True),
    "umbrella": Category("outdoor", 24, older=0.50, women=0.25, durable=True),
    "tent": Category("outdoor", 210, older=-0.25, women=-0.50, durable=True),
    "sleeping bag": Category("outdoor", 95, older=-0.30, women=-0.40, durable=True),
    "coat": Category("fashion", 150, older=0.40, women=0.45, durable=True),
    "dress": Category("fashion", 75, older=-0.25, women=1.00, durable=False),
    "sunglasses": Category("fashion", 85, older=-0.20, women=0.20, durable=False),
    "ice cream": Category("food", 6, older=-0.50, women=0.10, durable=False),
    "coffee beans": Category("food", 15, older=0.60, women=-0.15, durable=False),
    "coffee machine": Category("food", 240, older=0.70, women=-0.10, durable=True),
}
FOLLOW_UPS: Mapping[str, str] = {
    "phone": "phone case",
    "laptop": "laptop bag",
    "tent": "sleeping bag",
    "coat": "umbrella",
    "dress": "sunglasses",
    "coffee machine": "coffee beans",
}
BRANDS: Mapping[str, Sequence[str]] = {
    "tech": ("Voltra", "Pixeon", "Kestrel", "Orbix"),
    "outdoor": ("Nimbus", "Ridgeway", "Fjellborn", "Trailhead"),
    "fashion": ("Maison Lune", "Urbana", "Thread & Co", "Solane"),
    "food": ("Dolce Via", "Roastery 9", "Polar Scoop", "Casa Bruna"),
}
ADJECTIVES = ("Compact", "Classic", "Light", "Urban", "Deluxe", "Everyday", "Active", "Mini", "Pro", "Signature")
CITIES = ("Northport", "Lakeside", "Granville", "Sunhaven", "Eastbrook", "Millford")
WEATHERS = ("sunny", "cloudy", "rainy", "snowy")
PLACES = ("home", "work", "commute", "mall")
BEHAVIORS = ("skip", "view", "cart", "purchase")  # each includes the ones before it, but for skip


def title(brand: str, adjective: str, category: str) -> str:
    """Return an item's title.

    >>> title("Voltra", "Mini", "phone case")
    'Voltra Mini Phone Case'
    """
    return f"{brand} {adjective} {category.title()}"
