"""The local page over a root: what it shows (``answers``), who may ask (``guard``), and the server."""
