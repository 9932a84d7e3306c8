"""Page of `preftree demo`: methods compared in a world with a known optimum."""
