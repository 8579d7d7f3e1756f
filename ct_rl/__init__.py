"""ct_rl: reinforcement-learning agents with a compressive memory."""
