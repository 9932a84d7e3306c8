"""Files and folders that survive kills, full disks and a second process."""
