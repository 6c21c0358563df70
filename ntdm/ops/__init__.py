"""The differentiable operators: a torch twin, the compiled kernel of cuda/ and its binding for each.

They know tensors, not models. The build of the libraries belongs here too.
"""
