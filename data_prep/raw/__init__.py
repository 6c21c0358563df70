"""Raw files as the datasets publish them: annotations, CADs, MATLAB records, lists, and where they lie.

Nothing here is of one dataset alone.
"""
