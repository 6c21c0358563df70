"""Cameras, meshes, crops and the metrics on them. No learned parameter, no file format but OBJ."""
