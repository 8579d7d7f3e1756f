"""The embedded room task: `rooms_select_nonmatching_object` of DeepMind Lab, on Panda3D's CPU rasteriser."""
