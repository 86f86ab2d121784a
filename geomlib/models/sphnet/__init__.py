"""SPHNet and QHNet: Kohn-Sham matrices."""

from geomlib.models.sphnet.net import SPHNet
from geomlib.models.sphnet.qhnet import QHNet

__all__ = ["QHNet", "SPHNet"]
