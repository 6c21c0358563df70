"""Neural Textured Deformable Meshes: pose, shape, masks and class of an object from one photo."""

__version__ = "0.1.0"
