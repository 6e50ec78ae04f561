"""What building and testing PenguinDome needs, and running it does not."""
