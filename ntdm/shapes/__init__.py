"""Fitting of deformable meshes to CADs: initial meshes, losses, the fit, its quality and its sheets."""
