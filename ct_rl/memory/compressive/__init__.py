"""The Compressive Transformer (Rae et al. 2019) and its relatives: one core, exact for any cut, phase and reset."""
