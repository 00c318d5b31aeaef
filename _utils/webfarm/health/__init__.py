"""How this web server is: sensors that measure in threads of their own, and reports made of them.

A beacon runs in the minion's main loop once a second and must not wait for anything. So each
sensor has a thread (:mod:`webfarm.health.threads`) and keeps what it saw last; a sensor that hangs
stops itself and nobody else. :class:`webfarm.health.monitor.Monitor` puts together what they know
and decides, by :func:`webfarm.health.reading.why_now`, whether that is worth a report.
"""
