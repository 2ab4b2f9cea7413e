"""Studies: many runs described by one file, shared among workers through a folder, and put into one table."""
