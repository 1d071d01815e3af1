"""What is trained: one Lightning module per objective."""

from models.autoencoder import AutoencoderModule as AutoencoderModule
from models.base import LoRAModule as LoRAModule
from models.base import TrainingModule as TrainingModule
from models.discriminator import DiscriminatorModule as DiscriminatorModule
from models.dpo import DPOModule as DPOModule
from models.sft import SFTModule as SFTModule
from models.video_diffusion import VideoDiffusionModule as VideoDiffusionModule
