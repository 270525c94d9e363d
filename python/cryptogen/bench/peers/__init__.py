"""Other systems on the same shapes, on this machine, in the same command as `preprocessed`."""
