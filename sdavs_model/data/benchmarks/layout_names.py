"""Names of folders and files in AVSBench's published layouts; light to import, for those who only write them."""

MS3_FOLDER = "Multi-sources"
MS3_TABLE = "ms3_meta_data.csv"
MS3_DATA = "ms3_data"

S4_FOLDER = "Single-source"
S4_TABLE = "s4_meta_data.csv"
S4_DATA = "s4_data"

AVSS_FOLDER = "AVSBench_semantic"
AVSS_TABLE = "metadata.csv"
AVSS_CLASSES = "label2idx.json"
AVSS_NUM_FRAMES = {"v1s": 5, "v1m": 5, "v2": 10}
"""Frames of a clip by its part: AVSBench's single-source and multi-source clips, and the new ones."""
