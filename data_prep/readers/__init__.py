"""One reader a dataset. A reader says which samples there are and what they hold; it writes nothing."""
