"""DeepMind Lab: the thirty levels of DMLab-30 and their scores."""
