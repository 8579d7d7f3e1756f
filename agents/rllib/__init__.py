"""Everything that imports Ray: module, runners, learners, algorithms, their configs, stock configs, the old stack."""
