"""Storage that survives kills, full disks and a second process."""
