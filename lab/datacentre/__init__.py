"""A small data centre of systemd-nspawn containers on one machine."""
