"""The parts of the law in :mod:`webfarm.weights`: parameters, memory, estimates, drains."""
