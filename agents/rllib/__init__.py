"""Everything that imports Ray: the module, runners, learners, algorithms and their configs, stock configs, the old stack."""
