"""The page for people at `GET /`: static files without a build step, and a few clips to try."""
