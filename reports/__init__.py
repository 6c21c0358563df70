"""Tables and figures out of error files: the room that knows what a paper shows, and never imports torch.

`errors` and `table` give pandas frames; `ntdm report` writes files.
"""

from ntdm.reports.frames import errors as errors
from ntdm.reports.tables import table as table
