"""Everything that imports Ray: the module, runners, learners, algorithms and their configs, and the old stack."""
