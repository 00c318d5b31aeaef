"""Certificates: what preproduction has run on each hardware profile, and so production may take."""
