"""Packages of the operating system: the same verbs for Debian's apt and Gentoo's Portage."""
