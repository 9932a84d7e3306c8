"""Pages of judges and of leaderboards."""
