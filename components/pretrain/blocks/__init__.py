"""Building blocks of the methods: heads, losses, centres, trackers. A block imports no method."""
