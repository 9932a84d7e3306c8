"""What many people's votes say: agreement, a model of annotators, detectors of careless ones, and what to ask next."""
