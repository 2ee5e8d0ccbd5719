"""The device: files and time through one seam, their rights, the directory, the lock, and reading over bad sectors."""
