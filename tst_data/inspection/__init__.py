"""Looking at runs: what a run needs, and what its bags say."""
