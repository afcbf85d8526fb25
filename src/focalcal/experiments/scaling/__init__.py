"""Does focal temperature scaling beat temperature scaling? The study of the networks, and its page."""
