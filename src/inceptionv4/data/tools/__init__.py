"""Programs around the data: look at them, examine them, pack them."""
