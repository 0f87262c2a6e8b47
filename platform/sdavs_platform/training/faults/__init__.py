"""What can interrupt a training, and what is done about it."""
