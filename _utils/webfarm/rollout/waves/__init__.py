"""Waves: packages of the operating system, on one server of each farm at a time."""
