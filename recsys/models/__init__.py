"""Deep recommenders as Lightning modules: one short file each."""
