"""What holds for all tests."""

import os

# Tiny models gain nothing from threads, and lose much where several processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
