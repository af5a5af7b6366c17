"""Videos with maps of where people looked: what they hold, and how each model sees a clip."""
