"""Other systems on our shapes, on this machine, in the same command as ours."""
