"""Before torch is imported: one thread, and none that spins, so that tests do not starve what runs beside."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")
