"""SPHNet, QHNet and QHNetV2: Kohn-Sham matrices."""

from geomlib.models.sphnet.net import SPHNet
from geomlib.models.sphnet.qhnet import QHNet
from geomlib.models.sphnet.qhnetv2 import QHNetV2

__all__ = ["QHNet", "QHNetV2", "SPHNet"]
