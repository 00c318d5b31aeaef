"""A way back for a server's root filesystem: snapshots by btrfs, by LVM, or none."""
