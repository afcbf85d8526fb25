"""The loss as a function of the parameters, and passes over the data."""
