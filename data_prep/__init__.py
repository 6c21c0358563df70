"""Raw datasets in, cache files out: the only room that knows how a dataset lies on disk."""
