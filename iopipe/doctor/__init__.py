"""Checks of host, container, storage and GPU: `iopipe doctor`.

Stands beside the core and only looks.  Invariant: nothing is ever changed, and what could not be
looked at is `unknown`.
"""

from iopipe.doctor.examine import examine as examine
from iopipe.doctor.finding import Finding as Finding
