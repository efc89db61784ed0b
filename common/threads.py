"""Threads that sleep while they wait for work. Every command imports this first, before torch.

The threads of libgomp, which torch computes with, spin while they wait for each other. Where other processes need the
cores, the thread that is waited for gets none: beside four busy processes on two cores a training step of the tiny
encoder took 8.7 s, and takes 0.5 s so. libgomp reads the variable once, when it is loaded. The user's own value wins.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
