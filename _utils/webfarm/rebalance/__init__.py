"""The loop on the master that lets weights follow health: reports in, vectors of weights out.

:mod:`intake` decides which reports are believed, :mod:`controller` when a farm is decided on and
what its balancers are told, :mod:`service` ties them to a bus and a clock that are handed in. What
must outlive the process, and what the runner shows, is in :mod:`book`.
"""
