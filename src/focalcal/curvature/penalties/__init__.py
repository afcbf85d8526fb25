"""Training towards flat minima."""
