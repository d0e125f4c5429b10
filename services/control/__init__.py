"""control: takes controls from players. It knows neither torch nor Redis."""
