"""The web page at `GET /`: static files without a build step, and a few sample clips."""
