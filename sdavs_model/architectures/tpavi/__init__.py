"""TPAVI (Zhou et al., ECCV 2022): plain pixel-wise fusion of sound and picture, as a baseline."""
