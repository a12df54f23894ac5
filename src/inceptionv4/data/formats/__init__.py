"""Where samples are kept, one file a format; `data.index` chooses among them."""
