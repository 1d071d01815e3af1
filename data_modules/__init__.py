"""Records and batches."""

from data_modules.base import JSONLDataModule as JSONLDataModule
from data_modules.discriminator import DiscriminatorDataModule as DiscriminatorDataModule
from data_modules.preference import PreferenceDataModule as PreferenceDataModule
from data_modules.sft import SFTDataModule as SFTDataModule
from data_modules.toyvideo import ToyVideoDataModule as ToyVideoDataModule
