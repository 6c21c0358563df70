"""Inference by analysis by synthesis: encoding of photos, starts, rendering and comparing, refinement.

It knows no method by name: a method brings its renderer.
"""
