"""The two encoders of III-A: timm's visual backbones and VGGish with its audio attention."""
