"""Temperature and focal temperature scaling, and the exact fits behind them."""
