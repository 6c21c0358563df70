"""The methods that --method names, one file each, and their registry.

Parts that several share are in ntdm/nn.
"""
