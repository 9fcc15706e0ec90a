"""What sites and server say to each other, and how it is summed."""
