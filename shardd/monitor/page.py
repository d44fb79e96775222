"""The page at `/`: the server, live."""

PAGE = "<!doctype html><title>shardd</title>"
