"""The page on which people vote, and the admin's page."""
