"""Records and batches."""

from data_modules.toyvideo import ToyVideoDataModule as ToyVideoDataModule
