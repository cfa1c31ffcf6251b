"""A recommender framework: a shop's tables in; a trained, evaluated and exported model out."""

import os

os.environ.setdefault(
    "THP_MEM_ALLOC_ENABLE", "1"
)  # torch asks for huge pages: a step faults in thousands of small ones

__version__ = "0.1.0"
