"""Cases of `suite.py`, one a module: `tables` gives its tables, its arguments are sizes, by default the record's."""
