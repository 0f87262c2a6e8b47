"""Visual backbones of timm; the audio encoders VGGish, YAMNet and HTS-AT; SDAVS's audio attention (paper III-A)."""
