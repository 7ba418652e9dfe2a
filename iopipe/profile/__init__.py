"""`iopipe profile` and `iopipe diagnose`: what a training script waits for, from outside."""
