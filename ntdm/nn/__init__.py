"""Parts of models: backbone, neural texture, deformable mesh, background bank, losses.

A whole method is put together in ntdm/methods.
"""
