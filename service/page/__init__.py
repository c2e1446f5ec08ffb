"""The page at `/`: runs and bags for people."""
