"""ct_rl/memory"""
