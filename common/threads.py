"""Make OpenMP threads sleep while they wait. Every command imports this first, before torch.

By default, the threads of libgomp, which torch uses, spin while they wait for each other. If other processes need the
cores, the spinning threads take them from the thread that they wait for: next to four busy processes on two cores, a
training step of the tiny encoder took 8.7 s; with this setting it takes 0.5 s. libgomp reads the variable once, when it
is loaded. A value set by the user takes precedence.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
