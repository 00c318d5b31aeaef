"""The referee: clients that keep a log of every answer, and a judge who reads it."""
