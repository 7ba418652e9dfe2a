"""`iopipe bench storage`: how fast storage gives its bytes, and how many accelerators it feeds."""
