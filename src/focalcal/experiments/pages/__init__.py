"""A study as a page: what the pages of both papers are made of."""
