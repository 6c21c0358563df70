"""Files: caches, predictions, error tables, run folders, photos, atomic writing.

Imports no torch. What is in a file is checked here; what it means is decided elsewhere.
"""
