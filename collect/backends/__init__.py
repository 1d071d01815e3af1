"""What implements a protocol: language models, video generators, encoders, video files."""
