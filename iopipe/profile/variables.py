"""The environment variables of a profiled command.

Stands between the command and the processes that it starts.
"""

FOLDER = "IOPIPE_PROFILE_FOLDER"
"""Says where measurements go, and that there are any to make."""
STEPS = "IOPIPE_PROFILE_STEPS"
"""How many steps to measure; empty: all."""
