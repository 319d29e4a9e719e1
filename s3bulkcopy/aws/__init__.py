"""AWS as the client sees it: who we are, what a run needs there, and making, finding and removing it."""
