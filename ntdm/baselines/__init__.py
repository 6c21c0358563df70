"""Feed-forward methods that NTDM is compared with; one file each, same caches, same output files."""
